"""The command line ``xcvae``."""

from __future__ import annotations

import argparse
import os
import re
import shlex
import sys
import textwrap
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xcvae.errors import (
    ConfigError,
    MismatchError,
    MissingVariableError,
    OutputExistsError,
    XcvaeError,
    XcvaeWarning,
    nearest,
)
from xcvae.files import GRIB, NETCDF, is_taken, local_path, write_text

if TYPE_CHECKING:
    import xarray as xr

    from xcvae.ensemble.verify_store import Verification


STEPS = {
    "train": "train the model",
    "sample": "draw the ensembles and list them in the catalog",
    "evaluate": "score the ensembles and compare the scores with the criteria",
    "diagnose": "diagnose the model",
    "report": "draw the pictures and write the HTML report again",
}
KINDS = {
    "loss": "Losses (train: losses, or fit: stages)",
    "postprocessor": "Post-processors (sample: postprocess)",
    "storm": "Storms beyond the record (sample: storms)",
    "metric": "Metrics (evaluate: metrics)",
    "baseline": "Baselines (evaluate: baselines)",
}
WIDTH = 79
DEMO_START = "rain-radar"  # model that the demo starts from
YAML = "YAML file that describes the run; `xcvae demo` writes one to start from"
LEAST_MINUTES, MOST_MINUTES = 1e-6, 1e6  # as for max_minutes
INTERRUPTED, CLOSED = 130, 141  # exit codes of SIGINT and SIGPIPE in a shell
#: Options of `xcvae sample DATA`, and where a configuration has what they say.
OF_DATA = {
    "mode": "Write it in the section `sample` of the configuration.",
    "members": "Write it in the section `sample` of the configuration.",
    "seed": "Write it in the section `sample` of the configuration.",
    "variable": "Name the rain in the section `train`: target.",
    "catalog": "A run lists its ensembles in the file catalog.yaml of its output folder.",
}
#: What to type after a step of a run: commands, with the configuration and the output folder.
AFTER = {
    "train": ("xcvae sample {config}", "xcvae diagnose {config}"),
    "sample": ("xcvae evaluate {config}", "xcvae info {output}"),
    "draw": ("xcvae info {output}", "xcvae verify {output}"),  # no training, so perhaps no scores
    "evaluate": ("xcvae report {config}", "xcvae info {output}"),
    "diagnose": ("xcvae report {config}",),
    "report": ("open {output}/report/report.html in a browser", "xcvae info {output}"),
    "run": (
        "open {output}/report/report.html in a browser",
        "xcvae info {output}",
        "xcvae verify {output}",
        "xcvae run {config}   # the same run again: finished steps are skipped",
    ),
}
READ = """python -c "import intake; print(intake.open_catalog('{catalog}')['{name}'].read())\""""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments; by default those of the process.

    Returns
    -------
    int
        0 for success, 1 for an error in the data, a file or the configuration.

    Raises
    ------
    SystemExit
        With 2 if the arguments are invalid, with 0 after help or the version.
    """
    parser = _parser()
    arguments = parser.parse_args(argv)
    if arguments.command is None:
        parser.error("which command?")
    with warnings.catch_warnings():
        if not sys.warnoptions:
            # Those of dependencies are left out; those of xcvae are about the user's data.
            warnings.simplefilter("ignore")
            warnings.simplefilter("default", category=XcvaeWarning)
            warnings.showwarning = _show_warning
        try:
            status: int = arguments.act(arguments)
            sys.stdout.flush()
        except BrokenPipeError:
            # The reader has closed the pipe, as in `xcvae plugins | head`: not an error.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return CLOSED
        except (XcvaeError, OSError) as error:
            print(f"xcvae {arguments.command}: {_in_words(error)}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            print("\nxcvae: interrupted; repeat the command to continue", file=sys.stderr)
            return INTERRUPTED
    return status


def _in_words(error: Exception) -> str:
    """Return the message of an error; that of the system with the file first, without a number."""
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f"{error.filename}: {error.strerror[:1].lower()}{error.strerror[1:]}"
    return str(error)


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    print(f"xcvae: warning: {message}", file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="xcvae",
        description="Generative ensembles of rain fields: train, sample, evaluate, diagnose.",
        epilog="Start with: xcvae demo --output demo",
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")

    _add_runs(commands)
    _add_verify(commands)
    info = commands.add_parser("info", help="what a folder, model, store or catalog holds")
    info.add_argument(
        "path", metavar="PATH", help="output folder, model, store, icechunk:PATH or catalog"
    )
    info.set_defaults(act=_info)
    models = commands.add_parser("models", help="models that have a name, each with its card")
    models.add_argument("name", nargs="?", metavar="NAME", help="one of them (default: all)")
    models.set_defaults(act=_models)
    plugins = commands.add_parser("plugins", help="losses, post-processors, storms, metrics, ...")
    plugins.set_defaults(act=_plugins)
    return parser


def _add_runs(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the commands that run steps of a configuration."""
    demo = commands.add_parser("demo", help="a whole run on bundled radar, in minutes")
    demo.add_argument("--output", type=Path, required=True, help="output folder")
    demo.add_argument("--minutes", type=float, help="minutes of training")
    demo.set_defaults(act=_demo)

    init = commands.add_parser("init", help="a first configuration for your data")
    init.add_argument(
        "data", nargs="+", metavar="DATA",
        help="files, folders, Zarr stores, addresses or patterns; or catalog.yaml:ENTRY",
    )  # fmt: skip
    init.add_argument("--output", type=Path, metavar="CONFIG", help="new file (default: screen)")
    init.set_defaults(act=_init)

    run = commands.add_parser("run", help="a whole run on your data")
    run.add_argument("config", type=Path, metavar="CONFIG", help=YAML)
    run.add_argument("--check", action="store_true", help="check configuration and data only")
    run.set_defaults(act=_run)

    for name, text in STEPS.items():
        if name == "sample":
            continue
        step = commands.add_parser(name, help=f"one step: {text}", description=_step_text(text))
        step.add_argument("config", type=Path, metavar="CONFIG", help=YAML)
        step.set_defaults(act=_step)

    _add_sample(commands)
    for one in (demo, run, *(commands.choices[name] for name in STEPS)):
        one.add_argument(
            "--overwrite", action="store_true", help="replace products of another configuration"
        )
    for one in (run, commands.choices["sample"]):
        one.add_argument(
            "--append", action="store_true",
            help="add members and samples that CONFIG has now to finished ensembles",
        )  # fmt: skip


def _add_sample(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command that draws the ensembles of a configuration, or one from a file."""
    text = STEPS["sample"]
    sample = commands.add_parser(
        "sample",
        help=f"one step: {text}; or draw from a file of rain with a model",
        description=f"{_step_text(text)} Or, with --model and --store, an ensemble for the rain in "
        "a file: xcvae sample era5.nc --model rain-radar --factor 8 --store fine.zarr",
    )
    sample.add_argument(
        "config", type=Path, metavar="CONFIG|DATA",
        help=f"{YAML}; or data: Zarr, NetCDF, tutorial name",
    )  # fmt: skip
    add = sample.add_argument
    add("--model", metavar="MODEL", help="path or name of a model")
    add("--store", type=Path, metavar="STORE", help="Zarr store to write, new or unfinished")
    add("--variable", metavar="NAME", help="the rain in the data, if there are several")
    add("--factor", type=int, metavar="N", help="divide coarse cells into N x N pixels")
    add("--mode", choices=("prior", "posterior"), help="prior")
    add("--members", type=int, metavar="N", help="realizations (16)")
    add("--seed", type=int, metavar="N", help="of the noise (0)")
    add("--catalog", type=Path, metavar="YAML", help="intake catalog to list the store in")
    sample.set_defaults(act=_sample)


def _add_verify(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    verify = commands.add_parser(
        "verify", help="check a store, or all in a folder, against what was written"
    )
    verify.add_argument(
        "store", metavar="STORE", help="store of an ensemble, icechunk:PATH, or an output folder"
    )
    verify.add_argument(
        "--model", help="model file or name, to draw some regions again and compare"
    )
    verify.add_argument(
        "--data",
        help="data of the ensemble: Zarr, NetCDF, tutorial name, or the YAML file of the run",
    )
    verify.add_argument(
        "--sample", type=int, metavar="N", help="regions to draw again (4), with --model and --data"
    )
    verify.set_defaults(act=_verify)


def _step_text(text: str) -> str:
    return (
        f"One step of `xcvae run`: {text}. The products of earlier steps must exist in the output "
        "folder that CONFIG names."
    )


class _Version(argparse.Action):
    """Print the version, which is looked up only on request."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object, **__: object) -> None:
        from importlib.metadata import version

        print(f"xcvae {version('xcvae')}")
        parser.exit()


def _demo(arguments: argparse.Namespace) -> int:
    from xcvae import config, pipeline

    file = _demo_config(arguments.output, arguments.minutes)
    print(pipeline.run(config.load(file), overwrite=arguments.overwrite))
    _print_following(*AFTER["run"], READ, "xcvae plugins   # losses, metrics, ... by name",
                     config=file, output=arguments.output, name="prior",
                     catalog=arguments.output / "catalog.yaml")  # fmt: skip
    print(f"For your own data: xcvae init DATA, or copy {file} and change its first lines.")
    return 0


def _print_following(*commands: str, **names: object) -> None:
    """Print what to type next; names in commands of xcvae are quoted for a shell."""
    quoted = {key: shlex.quote(str(name)) for key, name in names.items()}
    print("\nWhat to type next:")
    for command in commands:
        print(f"  {command.format(**(quoted if command.startswith('xcvae') else names))}")


def _demo_config(output: Path, minutes: float | None) -> Path:
    """Write the configuration of the demo into its output folder, so that it can be run again.

    Raises
    ------
    ConfigError
        The number of minutes is none; nothing is written then.
    OutputExistsError
        A number of minutes is given, and the file there is not a configuration of the demo.
    """
    if minutes is not None and not LEAST_MINUTES <= minutes <= MOST_MINUTES:
        raise ConfigError.of(
            "--minutes",
            expected="a number above 0",
            got=f"{minutes:g}",
            remedy="Leave it out for those of the demo.",
        )
    file = output / "config.yaml"
    if minutes is None and file.exists():
        return file
    bundled = _demo_text()
    limit = re.compile(r"max_minutes: .*")
    if file.exists() and limit.sub("", file.read_text(encoding="utf-8")) != limit.sub("", bundled):
        raise OutputExistsError.of(
            str(file),
            expected="the configuration of the demo",
            got="another one",
            remedy=f"Run it with `xcvae run {file}`, or choose another output folder.",
        )
    output.mkdir(parents=True, exist_ok=True)
    text = bundled if minutes is None else limit.sub(f"max_minutes: {minutes}", bundled)
    write_text(file, text)
    return file


def _demo_text() -> str:
    """Return the configuration of the demo, which starts from the bundled model if there is one."""
    from xcvae import models

    name = "demo-started.yaml" if DEMO_START in models.names() else "demo.yaml"
    return (Path(__file__).parent / "tutorial" / name).read_text(encoding="utf-8")


def _init(arguments: argparse.Namespace) -> int:
    from xcvae import pipeline

    if arguments.output is None:
        print(pipeline.propose(arguments.data, Path()), end="")
        return 0
    file = local_path("--output", arguments.output)
    if file is None or is_taken(file):
        raise OutputExistsError.of(
            str(file),
            expected="a file that does not exist yet",
            got="one that does",
            remedy="Choose another name: xcvae init replaces nothing.",
        )
    text = pipeline.propose(arguments.data, file.parent)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_text(file, text)
    print("".join(line for line in text.splitlines(keepends=True) if line.startswith("#")))
    print(f"Written to {arguments.output}")
    commands = (
        "xcvae run {config} --check   # checks data and configuration",
        "xcvae run {config}",
    )
    _print_following(*commands, config=arguments.output)
    return 0


def _run(arguments: argparse.Namespace) -> int:
    from xcvae import config, pipeline

    settings = config.load(arguments.config)
    if arguments.check:
        print(pipeline.check(settings))
        _print_following("xcvae run {config}", config=arguments.config)
    else:
        append = arguments.append
        summary = pipeline.run(settings, overwrite=arguments.overwrite, append=append)
        print(summary)
        _print_following(*AFTER["run"], config=arguments.config, output=summary.output)
    return 0


def _step(arguments: argparse.Namespace) -> int:
    from xcvae import config, pipeline

    settings = config.load(arguments.config)
    options = {"overwrite": arguments.overwrite, "append": getattr(arguments, "append", False)}
    summary = pipeline.run_step(settings, arguments.command, **options)
    print(summary)
    after = "draw" if arguments.command == "sample" and settings.draws_only else arguments.command
    _print_following(*AFTER[after], config=arguments.config, output=summary.output)
    return 0


def _info(arguments: argparse.Namespace) -> int:
    from xcvae import pipeline

    print(pipeline.info(arguments.path))
    return 0


def _names_data(arguments: argparse.Namespace) -> bool:
    """Tell if the argument of `sample` must be data, and not a configuration."""
    suffix = Path(str(arguments.config)).suffix.lower()
    return arguments.factor is not None or suffix in (*NETCDF, *GRIB, ".zarr")


def _check_step(arguments: argparse.Namespace) -> None:
    """Refuse options for data that are given with a configuration, which has its own."""
    given = [name for name in OF_DATA if getattr(arguments, name) is not None]
    if given:
        raise ConfigError.of(
            f"--{given[0]}",
            expected="data, a model and a store",
            got=f"{arguments.config} without --model and --store",
            remedy=f"{OF_DATA[given[0]]} For data, give both.",
        )


def _check_options(arguments: argparse.Namespace) -> None:
    """Refuse options for data, and not for a configuration, that miss or contradict another."""
    if arguments.model is None or arguments.store is None:
        missing = " and no ".join(
            f"--{name}" for name in ("model", "store") if getattr(arguments, name) is None
        )
        raise ConfigError.of(
            "xcvae sample DATA",
            expected="a model and a store",
            got=f"no {missing}",
            remedy="For example --model rain-radar --factor 8 --store fine.zarr.",
        )
    if arguments.overwrite and arguments.append:
        raise ConfigError.of(
            "xcvae sample DATA",
            expected="--append, which keeps the members of the store, or --overwrite",
            got="both",
            remedy="Leave one out.",
        )


def _rain(arguments: argparse.Namespace) -> xr.Dataset:
    """Open the data of `xcvae sample DATA`: all variables, or the requested one."""
    from xcvae.fields.units import time_bounds

    ds, name = next(_data(str(arguments.config))), arguments.variable
    if name is None:
        return ds
    if name not in ds.data_vars:
        raise MissingVariableError.of(
            "--variable",
            expected=f"a variable of {arguments.config}",
            got=repr(name),
            remedy=nearest(name, map(str, ds.data_vars)),
        )
    bounds = [b for dim in ds[name].dims if (b := time_bounds(ds, str(dim))) is not None]
    return ds[[name, *bounds, *(n for n, da in ds.data_vars.items() if da.ndim == 0)]]


def _sample(arguments: argparse.Namespace) -> int:
    """Draw the ensembles of a configuration, or one for the rain in a file."""
    if arguments.model is None and arguments.store is None and not _names_data(arguments):
        _check_step(arguments)
        return _step(arguments)
    import xcvae

    _check_options(arguments)
    names = ("factor", "mode", "members", "seed", "catalog")
    options = {name: value for name in names if (value := getattr(arguments, name)) is not None}
    try:
        ensemble = xcvae.sample(
            _rain(arguments),
            arguments.model,
            store=arguments.store,
            resume="restart" if arguments.overwrite else "append" if arguments.append else True,
            **options,
        )
    except OutputExistsError as error:
        text = str(error).replace('resume="restart"', "--overwrite")
        text = text.replace('resume="append"', "--append")
        raise OutputExistsError(text) from error
    sizes = ", ".join(f"{dim}: {size}" for dim, size in ensemble.sizes.items())
    print(f"{arguments.store}: {', '.join(map(str, ensemble.data_vars))} ({sizes})")
    commands = ["xcvae info {store}", "xcvae verify {store}"]
    if arguments.catalog is not None:
        commands.append(READ)
    else:
        commands.append("""python -c "import xcvae; print(xcvae.open_store('{store}'))\"""")
    _print_following(*commands, store=arguments.store, catalog=arguments.catalog,
                     name=arguments.store.stem)  # fmt: skip
    return 0


def _verify(arguments: argparse.Namespace) -> int:
    from xcvae.ensemble.verify_store import is_store, verify_folder, verify_store

    if Path(arguments.store).is_dir() and not is_store(arguments.store):
        if arguments.model is not None or arguments.data is not None:
            raise ConfigError.of(
                "--model, --data",
                expected="the store of an ensemble, to draw some of its regions again",
                got=f"the folder {arguments.store}",
                remedy="Leave them out, or name one store in it.",
            )
        checked = verify_folder(arguments.store)
        print(checked)
        return 0 if checked.ok else 1

    options = {"model": arguments.model}
    if arguments.sample is not None:
        options["sample"] = arguments.sample
        if arguments.model is None or arguments.data is None:
            raise ConfigError.of(
                "--sample",
                expected="--model and --data, to draw so many regions again",
                got="one of them" if arguments.model or arguments.data else "the store alone",
                remedy="Give both, or leave it out: only checksums are compared then.",
            )
    if arguments.data is None or arguments.model is None:
        ds = None if arguments.data is None else next(_data(arguments.data))
        found = verify_store(arguments.store, ds=ds, **options)
    else:
        found = _verify_drawing(arguments, options)
    print(found)
    return 0 if found.ok else 1


def _verify_drawing(arguments: argparse.Namespace, options: dict[str, Any]) -> Verification:
    """Verify a store with the part of the data that it was drawn for."""
    from xcvae.ensemble.verify_store import verify_store

    problems = []
    for ds in _data(arguments.data):
        try:
            return verify_store(arguments.store, ds=ds, **options)
        except MismatchError as error:
            problems.append(error)
    raise problems[0]


def _data(name: str) -> Iterator[xr.Dataset]:
    """Open a file, a tutorial Dataset, or all samples that a configuration selects, in turn."""
    import xarray as xr

    from xcvae import config, tutorial

    path = Path(name)
    if path.suffix in (".yaml", ".yml"):
        loaded = config.load(path)
        parts = config.open_parts(loaded)
        yield from (ds for ds in (parts.test, parts.validation, parts.train) if ds is not None)
        yield from (parts.of(one) for one in loaded.sample if one.samples is not None)
    elif name in tutorial.names() and not path.exists():
        yield tutorial.open_dataset(name)
    elif path.is_dir():
        yield xr.open_zarr(path, consolidated=False)
    else:
        yield xr.open_dataset(path, chunks={})


def _models(arguments: argparse.Namespace) -> int:
    from xcvae import models

    names = models.names() if arguments.name is None else [arguments.name]
    for name in names:
        first, *rows = str(models.card(name)).splitlines()
        print(textwrap.fill(first, WIDTH))
        for row in rows:
            print(textwrap.fill(row, WIDTH, initial_indent="", subsequent_indent=" " * 4,
                                break_long_words=False, break_on_hyphens=False))  # fmt: skip
    if names:
        command = "xcvae sample DATA --model {name} --factor 8 --store fine.zarr"
        _print_following(command, name=names[0])
    else:
        print("no models; the environment variable XCVAE_MODELS lists folders of them")
    return 0


def _plugins(_: argparse.Namespace) -> int:
    from xcvae import plugins

    kind = ""
    for row in plugins.listing():
        if row.kind != kind:
            print("\n" * bool(kind) + KINDS[row.kind])
            kind = row.kind
        given = ", ".join(
            (name if default is None else f"{name}={default}")
            + (f" ({row.ranges[name]})" if name in row.ranges else "")
            for name, default in row.parameters.items()
        )
        hang = " " * (len(row.name) + 3)
        # Label only third-party components with their package.
        home = " ".join(filter(None, (row.package, row.version)))
        owner = "" if row.package == "xcvae" else f"  [{home}]"
        for text, begin, rest in (
            (f"{row.name}({given}){owner}", "  ", hang),
            (row.summary, " " * 6, " " * 6),
        ):
            print(textwrap.fill(text, WIDTH, initial_indent=begin, subsequent_indent=rest,
                                break_long_words=False, break_on_hyphens=False))  # fmt: skip
    for name, problem in plugins.broken().items():
        print(f"\nbroken plugin '{name}': {problem}")
    return 0
