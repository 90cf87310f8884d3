"""The command line: what it prints, where, and its exit codes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import xarray as xr

import xcvae
from xcvae import config
from xcvae.cli import DEMO_START, _demo_text, main
from xcvae.registry import KINDS, registry

if TYPE_CHECKING:
    from xcvae.generator.model import Model


def command(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "xcvae", *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
    )


def test_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["--version"])
    assert left.value.code == 0
    assert capsys.readouterr().out == f"xcvae {xcvae.__version__}\n"


@pytest.mark.parametrize("arguments", [[], ["rnu"], ["run"], ["demo"], ["run", "a", "--chek"]])
def test_invalid_arguments_exit_with_2(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        main(arguments)
    assert left.value.code == 2
    assert "usage: xcvae" in capsys.readouterr().err


@pytest.mark.parametrize("step", ["run", "train", "sample", "evaluate", "diagnose"])
def test_errors_print_one_message_and_exit_with_1(
    step: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad.yaml").write_text("dat: {}\noutput: out\n", encoding="utf-8")
    assert main([step, str(tmp_path / "bad.yaml")]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith(f"xcvae {step}: ")
    assert "unknown key 'dat'. Did you mean 'data'?" in said.err
    assert "Traceback" not in said.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("sample c.yaml --members 5", "--members: expected data, a model and a store, got c.yaml"),
        ("sample c.yaml --mode prior", "--mode: expected data"),
        ("sample rain.nc --variable rain --model M --store S", "--variable: .*Valid names: pr"),
        ("verify S --sample 2", "--sample: expected --model and --data.* the store alone"),
        ("verify S --sample 2 --model rain-radar", "--sample: .* one of them"),
    ],
)
def test_options_without_effect_and_unknown_variables_are_refused(
    options: str,
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    xr.Dataset({"pr": ("time", [1.0])}).to_netcdf("rain.nc")
    assert main(options.split()) == 1
    assert re.search(words, capsys.readouterr().err)


def test_existing_store_of_other_members_names_the_option_that_replaces_it(
    any_factor_model: Model,
    radar: xr.Dataset,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    coarse = radar[["pr"]].isel(time=[0, 1], y=slice(48), x=slice(48))
    coarse.coarsen(y=4, x=4).mean().drop_encoding().to_netcdf(tmp_path / "rain.nc")
    store = tmp_path / "e.zarr"
    draw = ["sample", str(tmp_path / "rain.nc"), "--model", str(any_factor_model.path)]
    draw += ["--factor", "4", "--store", str(store), "--members", "2"]
    assert main([*draw, "--seed", "1"]) == 0
    assert main([*draw, "--seed", "2"]) == 1
    assert capsys.readouterr().err.endswith("or replace the ensemble with --overwrite.\n")
    assert main([*draw, "--seed", "2", "--overwrite"]) == 0
    assert xcvae.open_store(store).sizes["realization"] == 2


def test_unwritable_output_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    assert main(["demo", "--output", str(tmp_path / "file")]) == 1
    assert "file" in capsys.readouterr().err


def test_check_describes_the_run_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "run.yaml"
    text = """
data:
  tutorial: radklim
  train: {}
  validation: {split: 1, time: {step: 50}}
  test: {split: 2, time: {step: 25}}
output: out
train: {target: pr, conditions: [pr_coarse]}
sample: [{name: prior, members: 3}]
"""
    config.write_text(text, encoding="utf-8")
    assert main(["run", str(config), "--check"]) == 0
    said = capsys.readouterr().out
    assert "condition   pr_coarse [mm h-1], 13 x 11, aligned" in said
    assert "prior: prior, 3 members of 4 test samples" in said
    assert "note: 4 test samples are trained on" in said
    assert re.search(r"note: \d validation samples are trained on", said)
    assert said.splitlines()[-2:] == ["What to type next:", f"  xcvae run {config}"]
    assert list(tmp_path.iterdir()) == [config]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("train: {target: prr}", "Did you mean 'pr'"),
        ("train: {conditions: [pr_corse]}", "Did you mean 'pr_coarse'"),
        ("train: {losses: [laplce]}", "Did you mean 'laplace'"),
        ("train: {generator: {preset: smal}}", "Did you mean 'small'"),
        ("train: {generator: {preset: {}}}", "unknown preset '{}'"),
        ("train: {generator: {preset: 3}}", "unknown preset '3'"),
        ("train: {target: [pr]}", "target"),
        ("train: {device: abacus}", "abacus"),
        ("evaluate: {metrics: [crsp]}", "Did you mean 'crps'"),
        ("evaluate: {baselines: [bilnear]}", "Did you mean 'bilinear'"),
        ("sample: [{name: a, postprocess: [{name: threshold, value: 1 K}]}]", "K"),
        ("sample: [{name: a, tile: {rows: 64}}]", "dims of the maps, y and x, got 'rows'"),
        (f"sample: [{{name: a, members: {10**30}}}]", "members: expected numbers below"),
        ("criteria: {prio: {}}", "Did you mean 'prior'"),
        ("criteria: {prior: [0, 1]}", "criteria: expected limits by score, got [0, 1]"),
        ("criteria: {prior: {mass: [0, 1]}}", "unknown score 'mass'"),
        ("plugins: [no_such_module]", "no_such_module"),
    ],
)
def test_check_finds_errors_before_training(
    line: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "run.yaml"
    data = "data: {tutorial: radklim, train: {split: 1}, test: {split: 2}}\noutput: out\n"
    config.write_text(data + line + "\n", encoding="utf-8")
    assert main(["run", str(config), "--check"]) == 1
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ("path: [], train: {}", "data.path: expected a file, or a list of files, got []"),
        ("tutorial: radklim, train: {time: null}", "data.train.time: expected a value"),
        ("tutorial: radklim, train: {time: [null]}", "data.train.time: expected a value"),
        ("tutorial: radklim, train: {time: {start: .nan}}", "data.train.time: expected labels"),
    ],
)
def test_empty_values_of_data_are_refused(
    data: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "run.yaml"
    config.write_text(f"data: {{{data}}}\noutput: out\n", encoding="utf-8")
    assert main(["run", str(config), "--check"]) == 1
    assert words in capsys.readouterr().err


def test_plugins_lists_everything_without_torch(tmp_path: Path) -> None:
    code = "import sys, xcvae.cli as c; c.main(['plugins']); print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "XCVAE_NO_PLUGINS": "1"},
        cwd=tmp_path,
    )
    lines = done.stdout.splitlines()
    assert lines[-1] == "False"
    assert "  laplace(scale=0.06 (>= 1e-06), weight=1.0 (>= 0))" in lines
    assert "  clip(maximum, minimum=None)" in lines
    assert max(map(len, lines)) < 80
    assert "has no class" not in done.stdout
    names = [name for kind in KINDS for name in registry().names(kind)]
    begins = [line for line in lines if line.startswith("  ") and line[2] != " "]
    assert [line.strip().partition("(")[0] for line in begins] == names


def test_plugins_lists_components_registered_in_this_process(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["plugins"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("Losses (train: losses, or fit: stages)\n  crps(")
    assert "\n\nBaselines (evaluate: baselines)\n  bilinear()" in said


def test_closed_pipe_is_not_an_error(tmp_path: Path) -> None:
    done = subprocess.run(
        ["bash", "-c", f"{sys.executable} -m xcvae plugins | true; echo ${{PIPESTATUS[0]}}"],
        capture_output=True, text=True, check=True, cwd=tmp_path,
        env={**os.environ, "XCVAE_NO_PLUGINS": "1", "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip
    assert done.stderr == ""
    assert done.stdout in ("141\n", "0\n")


def test_interrupt_message_tells_how_to_continue(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "pressing_ctrl_c.py").write_text("raise KeyboardInterrupt\n", encoding="utf-8")
    config = tmp_path / "run.yaml"
    config.write_text(
        "data: {tutorial: radklim}\noutput: out\nplugins: [pressing_ctrl_c]\n", encoding="utf-8"
    )
    assert main(["run", str(config)]) == 130
    assert "repeat the command to continue" in capsys.readouterr().err


def test_plugins_lists_installed_and_broken_packages(tmp_path: Path) -> None:
    info = tmp_path / "mine-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[xcvae]\ngood = mine\nbad = mine_broken\n")
    (tmp_path / "mine.py").write_text(
        "from dataclasses import dataclass, field\nimport xcvae\n\n"
        '@dataclass(frozen=True)\nclass Halve:\n    """Half of it.\n\n    More."""\n'
        "    share: float = 0.5\n    sizes: list = field(default_factory=lambda: [1])\n"
        "    must: int = field(kw_only=True)\n\n"
        '@xcvae.hookimpl\ndef xcvae_components():\n    return {"postprocessor": '
        '{"halve": Halve, "third": "mine_lazy:Third"}}\n'
    )
    (tmp_path / "mine_lazy.py").write_text(
        "from mine_base import Base\nraise RuntimeError('imported too early')\n"
        'class Third(Base):\n    """A third."""\n    more: int = 1\n'
    )
    (tmp_path / "mine_base.py").write_text("class Base:\n    much: float = 0.3\n")
    (tmp_path / "mine_broken.py").write_text("import nothing_of_that_name\n")
    done = command("plugins", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "  halve(share=0.5, sizes=[1], must)  [mine 1.0]\n      Half of it.\n" in done.stdout
    assert "  third(much=0.3, more=1)  [mine 1.0]\n      A third.\n" in done.stdout
    assert "broken plugin 'bad'" in done.stdout
    assert "nothing_of_that_name" in done.stdout


def test_demo_writes_its_configuration_into_its_output_folder(tmp_path: Path) -> None:
    # A file under the name of the model stops the demo before it trains.
    (tmp_path / "model.xcvae").write_text("mine", encoding="utf-8")
    done = command("demo", "--output", ".", "--minutes", "0.5", cwd=tmp_path)
    assert done.returncode == 1
    assert "a file that no run has recorded" in done.stderr
    assert (tmp_path / "model.xcvae").read_text(encoding="utf-8") == "mine"
    assert "max_minutes: 0.5" in (tmp_path / "config.yaml").read_text(encoding="utf-8")


@pytest.mark.parametrize("minutes", ["0", "-1", "nan", "inf"])
def test_demo_refuses_minutes_before_it_writes_anything(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], minutes: str
) -> None:
    assert main(["demo", "--output", str(tmp_path / "demo"), f"--minutes={minutes}"]) == 1
    assert "--minutes: expected a number above 0" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("known", [True, False])
def test_demo_starts_from_the_bundled_model_if_there_is_one(known: bool) -> None:
    bundled = DEMO_START in xcvae.models.names()
    text = _demo_text()
    assert ("start: rain-radar" in text) == bundled
    name = "demo-started.yaml" if known else "demo.yaml"
    file = Path(xcvae.__file__).parent / "tutorial" / name
    settings = config.load(file)
    assert (settings.train.start == DEMO_START) == known
    assert known == (settings.criteria is not None)


def test_demo_keeps_a_configuration_that_is_not_its_own(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("mine: 1\n", encoding="utf-8")
    done = command("demo", "--output", ".", "--minutes", "0.5", "--overwrite", cwd=tmp_path)
    assert done.returncode == 1
    assert "expected the configuration of the demo" in done.stderr
    assert (tmp_path / "config.yaml").read_text(encoding="utf-8") == "mine: 1\n"


def test_errors_of_the_system_name_the_file_without_a_number(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "taken").touch()
    output = tmp_path / "taken" / "demo"
    assert main(["demo", "--output", str(output)]) == 1
    assert capsys.readouterr().err == f"xcvae demo: {output}: not a directory\n"
