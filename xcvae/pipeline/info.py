"""Description of a path in words: a run, a model, an ensemble, samples or a catalog."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import xarray as xr

from xcvae.ensemble import catalog as catalogs
from xcvae.ensemble.dataset import described, record_of
from xcvae.ensemble.store.base import DONE, EnsembleStore
from xcvae.ensemble.store.local import FileLedger
from xcvae.ensemble.store.samples import origin_of
from xcvae.errors import ConfigError, XcvaeError
from xcvae.fields.dataspec import DataSpec
from xcvae.files import GRIB, NETCDF, is_taken, write_text
from xcvae.generator import named

Facts = dict[str, object]
README = "README.txt"
FIRST_LINE = "This folder was written by xcvae."
WIDTH = 12
#: Endings of names of data, which another command describes.
DATA = (*NETCDF, *GRIB, ".zarr")


def info(path: str) -> str:
    """Describe what a path holds, when and from what it was made, and what to type next.

    Parameters
    ----------
    path
        Output folder of a run, model file or name, store, ``icechunk:PATH``, catalog or
        configuration.

    Raises
    ------
    ConfigError
        There is nothing, or nothing of xcvae.
    XcvaeError
        It is damaged.
    """
    if path.startswith("icechunk:"):
        return _of_store(path)
    found = _of_file(Path(path)) if Path(path).is_file() else _of_directory(Path(path), path)
    if not found and not is_taken(Path(path)) and path in named.names():
        found = _of_model(named.path_of(path), path)
    if found:
        return found
    is_data = is_taken(Path(path)) and Path(path).suffix.lower() in DATA
    raise ConfigError.of(
        path,
        expected="a run, a model, a store, a catalog or a configuration of xcvae",
        got="something else" if is_taken(Path(path)) else "nothing of that name",
        remedy=(f"Data are described by: xcvae init {_quoted(path)}. " if is_data else "")
        + "Check the path; an Icechunk repository is icechunk:PATH. "
        f"Models with a name: {', '.join(named.names()) or 'none'}.",
    )


def _of_file(file: Path) -> str:
    """Describe a file; empty for one that is not of xcvae."""
    if file.suffix == ".xcvae":
        return _of_model(file)
    if catalogs.is_catalog(file):
        return _of_catalog(file)
    if file.suffix in (".yaml", ".yml"):
        following = [f"xcvae run {_quoted(file)} --check", f"xcvae run {_quoted(file)}"]
        return f"{file}: a configuration\n{_text('  what to type next', {}, following)}"
    return ""


def _of_directory(folder: Path, path: str) -> str:
    """Describe a folder, or an unfinished store of its name; empty for others."""
    unfinished = Path(f"{folder.absolute()}.partial")  # absolute: the path may be "."
    if FileLedger.within(folder) or FileLedger.within(unfinished):
        return _of_store(path)
    if (folder / "snapshots").is_dir():
        return _of_store(f"icechunk:{path}")
    if (folder / "zarr.json").is_file():
        return _of_samples(folder)
    if _is_run(folder):
        return _of_folder(folder)
    readme = folder / README
    text = readme.read_text(encoding="utf-8") if readme.is_file() else ""
    return f"{folder}: {text.rstrip()}" if "written by xcvae" in text else ""


def write_readme(folder: Path) -> None:
    """Write what a folder holds to its README.txt, unless there is one that xcvae did not write."""
    file = folder / README
    if is_taken(file):
        try:
            if not file.read_text(encoding="utf-8").startswith(FIRST_LINE):
                return
        except (OSError, ValueError):
            return
    text = f"{FIRST_LINE} Commands are those to type in it.\n\n{_of_folder(folder, Path())}\n"
    if not file.exists() or file.read_text(encoding="utf-8") != text:
        write_text(file, text)


def _is_run(folder: Path) -> bool:
    names = ("made-from.json", "model.xcvae", "catalog.yaml")
    return any((folder / name).is_file() for name in names)


def _text(title: str, facts: Mapping[str, object], following: Iterable[str] = ()) -> str:
    """Write a title, facts by name, and commands to type next."""
    known = {name: str(value) for name, value in facts.items() if value not in (None, "", [])}
    lines = [title, *(f"  {name:<{WIDTH}}{value}" for name, value in known.items())]
    commands = list(following)
    if commands and known:
        lines.append("  what to type next")
    lines += [f"    {command}" for command in commands]
    return "\n".join(lines)


def _quoted(path: Path | str) -> str:
    """Quote a path for a shell, if it has to be."""
    return shlex.quote(str(path))


def _of_model(file: Path, name: str = "") -> str:
    """Describe a model; one with a name is known by it, and has a card."""
    shown = name or str(file)
    following = [
        f"xcvae sample DATA --model {_quoted(shown)} --store ens.zarr",
        f"xcvae models {name}" if name else f"xcvae verify {_quoted(file.parent)}",
        f"python -c \"import xcvae; print(xcvae.load('{shown}'))\"",
    ]
    facts = {"file": file} if name else {}
    return _text(f"{shown}: a model", facts | _model_facts(file), following)


def _model_facts(file: Path) -> Facts:
    from xcvae.generator.model import load

    model = load(file)
    spec, training = model.spec, model.training
    version = training.get("versions", {}).get("xcvae", "")
    made = f"{_date(file)}, xcvae {version}, {training.get('steps')} steps"
    if training.get("minutes") is not None:
        made += f", {training['minutes']:.1f} minutes"
    conditions = [f"{v.name} [{v.units}]" for v in spec.variables]
    samples = "" if model.thumbnails is None else f"{model.thumbnails.samples} training samples"
    scores = [f"{k.removeprefix('val_')} {v:.3g}" for k, v in _scores(training).items()]
    count = len(model.networks)
    return {
        "made": made,
        "networks": f"{count}, which share the members" if count > 1 else "",
        "target": f"{spec.target} [{spec.units}], {spec.shape[0]} x {spec.shape[1]} pixels",
        "conditions": ", ".join(conditions) or "none",
        "from": samples,
        "validation": ", ".join(scores),
        "sha256": model.sha256[:12],
    }


def _scores(training: Mapping[str, Any]) -> dict[str, float]:
    """Return the validation scores of the weights that are in the file."""
    rows = [row for row in training.get("history", []) if "val_crps" in row]
    if not rows:
        return {}
    row = rows[-1]
    if training.get("weights") == "best":
        monitored = f"val_{training.get('fit', {}).get('monitor', 'crps')}"
        # Files of earlier versions have the best weights, and do not name their step.
        best = min(rows, key=lambda one: one[monitored])
        row = next((one for one in rows if one["step"] == training.get("selected")), best)
    return {k: v for k, v in row.items() if k.startswith("val_")}


def _date(path: Path) -> str:
    made = datetime.fromtimestamp(path.stat().st_mtime, UTC)
    return made.strftime("%Y-%m-%d %H:%M UTC")


def _of_store(name: str) -> str:
    store = EnsembleStore.of(name)
    status = store.status()
    found = status.complete if status.complete.identity is not None else status.partial
    facts = _store_facts(store)
    finished = found is status.complete
    following = [f"xcvae verify {_quoted(name)}"]
    if finished:
        following.append(f"python -c \"import xarray; print(xarray.open_zarr('{name}'))\"")
    if name.startswith("icechunk:"):
        following[1:] = [f"python -c \"import xcvae; print(xcvae.open_store('{name}'))\""]
    if status.partial.exists:
        following.insert(0, "the call that was interrupted again: it draws what is missing")
    title = f"{found.name}: an ensemble{'' if finished else ', not finished'}"
    return _text(title, facts, following)


def _store_facts(store: EnsembleStore) -> Facts:
    ensemble = store.open(incomplete=True)
    record = record_of(ensemble)
    spec = DataSpec.from_json(record["spec"])
    status = store.status()
    found = status.complete if status.complete.identity is not None else status.partial
    facts = ensemble_facts(ensemble, record, spec)
    if found.ledger is None:
        return facts
    metadata = found.ledger.metadata()
    done = sum(entry.get("state") == DONE for entry in found.ledger.entries().values())
    facts["regions"] = f"{done} of {metadata.get('regions', done)} written"
    calls = [
        f"appended {one['appended']}" for one in metadata.get("calls", []) if "appended" in one
    ]
    return {**facts, "later": "; ".join(calls)}


def ensemble_facts(ensemble: xr.Dataset, record: Mapping[str, Any], spec: DataSpec) -> Facts:
    """Return what an ensemble is and how it was drawn; no member is read."""
    field = ensemble[spec.target]
    numbers = ensemble["realization"].values
    origin = origin_of(ensemble, spec.sample)
    keys = ("mode", "factor", "spread", "diversity_reached", "temperature", "seed", "min_mass",
            "temporal", "cap")  # fmt: skip
    settings = [f"{key} {record[key]:.4g}" if isinstance(record.get(key), float) else
                f"{key} {record[key]}" for key in keys if record.get(key) is not None]  # fmt: skip
    steps = [str(one.get("name")) for one in record.get("postprocess") or []]
    lines = str(ensemble.attrs.get("history", "")).splitlines()
    made = next((line for line in reversed(lines) if ": xcvae " in line and " drew " in line), "")
    return {
        "made": made.partition(": xcvae ")[0] + f", xcvae {record.get('version')}",
        "variable": f"{spec.target} [{spec.units}], "
        + ", ".join(f"{dim} {size}" for dim, size in field.sizes.items()),
        "members": f"{len(numbers)}, numbers {numbers[0]} to {numbers[-1]}",
        "period": " to ".join(origin["period"]),
        "settings": ", ".join(settings),
        "storms": ", ".join(_storm(one) for one in record.get("storms") or []),
        "after": ", ".join(steps),
        "model": str(record.get("model_sha256", ""))[:12],
        "source": origin["source"],
        "licence": origin["license"],
    }


def _storm(record: Mapping[str, Any]) -> str:
    """Name a component that changed the storms, with its parameters."""
    about = {"name", "package", "version", "most"}
    given = {k: v for k, v in record.items() if k not in about and v is not None}
    return " ".join([str(record["name"]), *(f"{key} {value}" for key, value in given.items())])


def _of_samples(folder: Path) -> str:
    read = f"import xarray; print(xarray.open_zarr('{folder}'))"
    following = [f'python -c "{read}"', f"xcvae init {_quoted(folder)} --output config.yaml"]
    return _text(f"{folder}: samples in a Zarr store", _samples_facts(folder), following)


def _samples_facts(folder: Path) -> Facts:
    with xr.open_zarr(folder, chunks={}, consolidated=False) as ds:
        return _entry_facts(described(ds))


def _entry_facts(about: Mapping[str, Any]) -> Facts:
    """Return the facts of a catalog entry."""
    sizes = ", ".join(f"{dim} {size}" for dim, size in about.get("sizes", {}).items())
    shares = [
        f"{key.removesuffix('_share')} {about[key]:.2%}"
        for key in ("wet_share", "heavy_share")
        if key in about
    ]
    scores = [f"{name} {value:.3g}" for name, value in about.get("scores", {}).items()]
    unit = f" [{about['units']}]" if about.get("units") else ""
    return {
        "variable": f"{about.get('variable', '')}{unit}, {sizes}" if sizes else "",
        "split": about.get("split"),
        "period": " to ".join(about.get("period", [])),
        "conditions": ", ".join(about.get("conditions", {})),
        "pixels": ", ".join(shares),
        "model": str(about.get("model_sha256", ""))[:12],
        "scores": ", ".join(scores),
        "source": about.get("source"),
        "licence": about.get("license"),
    }


def _of_catalog(file: Path) -> str:
    parts = [f"{file}: an intake catalog of {len(catalogs.names(file))} entries"]
    for name in catalogs.names(file):
        about = catalogs.metadata_of(file, name)
        parts.append(_text(f"entry '{name}'", _entry_facts(about)))
    names = catalogs.names(file)
    first = names[0] if names else "NAME"
    read = f"import intake; print(intake.open_catalog('{file}')['{first}'].read())"
    return "\n".join([*parts, _text("open", {}, [f'python -c "{read}"'])])


def _of_folder(folder: Path, shown: Path | None = None) -> str:
    """Describe the output folder of a run: its parts, scores and verdicts.

    Parameters
    ----------
    folder
        The folder.
    shown
        How commands name it; by default as it was given.
    """
    shown = folder if shown is None else shown
    made = folder / "made-from.json"
    facts: Facts = {"made": _date(made) if made.is_file() else ""}
    facts |= _verdicts(folder / "report")
    parts = [_text(f"{folder.resolve().name}: output of a run", facts)]
    for file in sorted(folder.glob("*.xcvae"), reverse=True):
        kind = "the weights of the last step" if file.stem.endswith("-last") else "the model"
        parts.append(_guarded(file, kind, partial(_model_facts, file)))
    for path in sorted(folder.glob("*/")):
        name = path.name.removesuffix(".partial")
        if FileLedger.within(path) and not (path.name != name and (folder / name).is_dir()):
            store = EnsembleStore.of(folder / name)
            parts.append(_guarded(folder / name, "an ensemble", partial(_store_facts, store)))
    parts += [
        _guarded(path, "real samples, copied", partial(_samples_facts, path))
        for path in sorted(folder.glob("data/*.zarr"))
    ]
    following = [f"xcvae verify {_quoted(shown)}"]
    if (folder / "catalog.yaml").is_file():
        following.append(f"xcvae info {_quoted(shown / 'catalog.yaml')}")
    if (folder / "config.yaml").is_file():
        config = _quoted(shown / "config.yaml")
        following.append(f"xcvae run {config} --append   # more members or days")
    if (folder / "report" / "report.html").is_file():
        following.append(f"open {shown / 'report' / 'report.html'} in a browser")
    return "\n\n".join([*parts, _text("what to type next", {}, following)])


def _guarded(path: Path, kind: str, facts: Any) -> str:
    """Describe a part of a folder; a damaged one is described by its error."""
    try:
        return _text(f"{path.name}: {kind}", facts())
    except XcvaeError as error:
        return _text(f"{path.name}: {kind}, damaged or unfinished", {"problem": error})


def _verdicts(report: Path) -> Facts:
    """Return the verdicts of a run's criteria and its diagnosis."""
    try:
        summary = json.loads((report / "summary.json").read_text(encoding="utf-8"))
        criteria = summary["criteria"]
    except (OSError, ValueError, KeyError):
        return {}
    found = {}
    for name, verdicts in criteria.items():
        missed = [str(one["name"]) for one in verdicts if one.get("verdict") == "miss"]
        text = f"{len(verdicts) - len(missed)} of {len(verdicts)} criteria met"
        text += f"; missed: {', '.join(missed)}" if missed else ""
        found[name] = text if verdicts else ""
    sound = summary.get("sound")
    diagnosis = {True: "no fault found", False: "faults found: report/diagnosis.txt"}
    return {**found, "diagnosis": diagnosis.get(sound, "")}
