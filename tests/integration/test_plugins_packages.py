"""The packages in plugins/ build, install and work by name; the tutorial does what it says."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sysconfig
import tomllib
import venv
from collections.abc import Iterator
from pathlib import Path

import pytest
import xarray as xr

import xcvae

from ..support.code import imported_names

ROOT = Path(__file__).parents[2]
PLUGINS = ROOT / "plugins"
PACKAGES = sorted(path.parent for path in PLUGINS.glob("*/pyproject.toml"))
PUBLIC = {"xcvae", "xcvae.plugins", "xcvae.testing", "xcvae.errors"}
#: Enough for the code to be run, far too little for a good model.
TINY_FIT = '"max_steps": 3, "batch_size": 2, "crop": 24, "validations": 1'
TINY = f'generator={{"levels": 2, "channels": [8, 8], "latents": [2, 1]}}, fit={{{TINY_FIT}}}'
TINY_YAML = (
    "generator: {levels: 1, channels: [8], latents: [2]}\n"
    "  fit: {max_steps: 3, batch_size: 2, crop: 24, validations: 1}"
)


class Environment:
    """A virtual environment of its own, which sees the packages of this one as well."""

    def __init__(self, folder: Path) -> None:
        venv.create(folder, with_pip=False, symlinks=True)
        bases = {"base": str(folder), "platbase": str(folder)}
        site = Path(sysconfig.get_path("purelib", "venv", vars=bases))
        parent = sysconfig.get_path("purelib")
        # A .pth file of this form also reads those of the parent, by which xcvae is installed.
        (site / "parent.pth").write_text(f"import site; site.addsitedir({parent!r})\n")
        self.bin = Path(sysconfig.get_path("scripts", "venv", vars=bases))

    def bash(self, script: str, folder: Path) -> str:
        # Offline, and without building torch: dependencies and hatchling are those of the parent.
        script = re.sub(
            r"^pip install", "pip install -q --no-deps --no-build-isolation", script, flags=re.M
        )
        script = re.sub(r"^(pip|pytest|xcvae) ", r"python -W error -m \1 ", script, flags=re.M)
        script = script.replace("-W error -m pip", "-m pip")
        return self._run(["bash", "-euo", "pipefail", "-c", script], folder)

    def python(self, code: str, folder: Path) -> str:
        return self._run([str(self.bin / "python"), "-W", "error", "-c", code], folder)

    def _run(self, command: list[str], folder: Path) -> str:
        path = f"{self.bin}{os.pathsep}{os.environ['PATH']}"
        kept = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "XCVAE_NO_PLUGINS")}
        done = subprocess.run(
            command,
            cwd=folder,
            env={**kept, "PATH": path, "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}\n{command[-1]}"
        return done.stdout


def modules_of(package: Path) -> list[Path]:
    return sorted((package / "src").rglob("*.py"))


@pytest.mark.parametrize("package", PACKAGES, ids=lambda path: path.name)
def test_plugin_packages_are_complete(package: Path) -> None:
    project = tomllib.loads((package / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (folder,) = (package / "src").iterdir()
    assert (folder / "py.typed").exists()
    assert project["license"] == "BSD-3-Clause"
    assert project["entry-points"] == {"xcvae": {folder.name: folder.name}}
    assert project["name"] == folder.name.replace("_", "-")
    assert project["name"] in (package / "README.md").read_text(encoding="utf-8")
    assert list((package / "tests").glob("test_*.py"))
    assert "XCVAE_API = 1" in (folder / "__init__.py").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "path", [m for p in PACKAGES for m in modules_of(p)], ids=lambda path: path.stem
)
def test_plugins_import_public_names_only(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) < 300
    private = private_names(path)
    assert not private, f"{path.name} imports {private}"


def private_names(path: Path) -> set[str]:
    """Return the names that a file imports from xcvae and that are not public."""
    ours = {name for name in imported_names(path) if name.partition(".")[0] == "xcvae"}
    # Names of public modules are public, too; those of the package are listed.
    public = PUBLIC | {f"xcvae.{name}" for name in xcvae.__all__}
    return {
        name
        for name in ours - public
        if (parent := name.rpartition(".")[0]) == "xcvae" or parent not in PUBLIC
    }


@pytest.mark.parametrize(
    ("line", "names"),
    [
        ("import xcvae.ensemble", {"xcvae.ensemble"}),
        ("from xcvae import generator", {"xcvae.generator"}),
        ("from xcvae.fields import units", {"xcvae.fields", "xcvae.fields.units"}),
        ("import xcvae.accessor as accessor", {"xcvae.accessor"}),
        ("import xcvae\nfrom xcvae import hookimpl, tutorial\nimport xcvae.plugins", set()),
        ("from xcvae.plugins import Metric\nfrom xcvae.errors import DataError", set()),
    ],
)  # fmt: skip
def test_private_modules_are_recognised(tmp_path: Path, line: str, names: set[str]) -> None:
    (tmp_path / "m.py").write_text(line)
    assert private_names(tmp_path / "m.py") == names


def test_core_imports_no_plugin_and_only_one_plugin_imports_scores() -> None:
    for package in PACKAGES:
        used = any(
            "scores" in {name.partition(".")[0] for name in imported_names(path)}
            for path in modules_of(package)
        )
        assert used == (package.name == "xcvae-scores")
    names = {path.name for package in PACKAGES for path in (package / "src").iterdir()}
    for module in (ROOT / "xcvae").rglob("*.py"):
        assert not names & {name.partition(".")[0] for name in imported_names(module)}


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """An environment with all packages of plugins/, built and installed by pip."""
    environment = Environment(tmp_path_factory.mktemp("plugins") / "env")
    environment.bash(f"pip install {' '.join(map(str, PACKAGES))}", PLUGINS)
    return environment


def test_plugin_names_are_listed_without_clashes(installed: Environment, tmp_path: Path) -> None:
    code = """
import json, sys
from xcvae.plugins import broken, listing
rows = [(row.kind, row.name, row.package, row.version, row.summary) for row in listing()]
print(json.dumps([rows, broken()]))
assert not {"scipy", "scores", "xcvae_extremes.losses"} & set(sys.modules)
"""
    rows, broken = json.loads(installed.python(code, tmp_path))
    assert broken == {}
    found = {(kind, name): package for kind, name, package, _, _ in rows}
    assert found["loss", "pinball"] == "xcvae-extremes"
    assert found["postprocessor", "sharp_edge"] == "xcvae-physics"
    assert found["metric", "scores_kge"] == "xcvae-scores"
    for kind, name in (("metric", "mean_difference"), ("loss", "square_error"),
                       ("postprocessor", "soft_cap"), ("baseline", "record_mean"),
                       ("storm", "steepen")):  # fmt: skip
        assert found[kind, name] == "xcvae-template"
    packages = {package.name for package in PACKAGES} - {"template"} | {"xcvae-template"}
    assert packages <= set(found.values())
    assert all(
        version == "0.1.0" and text for _, _, package, version, text in rows if package != "xcvae"
    )
    assert "spectral_slope" in installed.bash("xcvae plugins", tmp_path)
    assert "pinball" not in installed.bash("export XCVAE_NO_PLUGINS=1\nxcvae plugins", tmp_path)


CONFIG = f"""
data:
  tutorial: radklim
  train: {{split: 0, time: {{step: 20}}}}
  validation: {{split: 1, time: {{step: 30}}}}
  test: {{split: 2, time: {{step: 20}}}}
output: run
train:
  target: pr
  conditions: [pr_coarse]
  losses:
    - laplace
    - kl
    - {{name: pinball, tau: 0.9}}
    - {{name: spectral_slope, of: prior}}
    - square_error
  {TINY_YAML}
sample:
  - name: prior
    mode: prior
    members: 2
    postprocess:
      - {{name: sharp_edge, value: 0.2 mm h-1}}
      - {{name: wet_area, fraction: 0.5}}
      - {{name: mass_threshold, value: 0.1 mm h-1, reference: condition}}
evaluate:
  metrics: [crps, tw_crps, csi_quantile, scores_mae, mean_difference]
  baselines: [bilinear]
"""


def test_plugin_names_work_in_yaml_and_on_the_command_line(
    installed: Environment, tmp_path: Path
) -> None:
    (tmp_path / "config.yaml").write_text(CONFIG, encoding="utf-8")
    installed.bash("xcvae run config.yaml", tmp_path)
    ensemble = xr.open_zarr(tmp_path / "run" / "prior.zarr", consolidated=False)
    chain = json.loads(ensemble.attrs["xcvae"])["postprocess"]
    assert [(one["name"], one["package"], one["version"]) for one in chain] == [
        (name, "xcvae-physics", "0.1.0") for name in ("sharp_edge", "wet_area", "mass_threshold")
    ]
    assert all(one["removed"] is not None for one in chain)
    # The header of a model file is JSON.
    header = (tmp_path / "run" / "model.xcvae").read_bytes().partition(b"__metadata__")[2]
    for package in (b"xcvae-extremes", b"xcvae-physics", b"xcvae-template"):
        assert package in header


def steps_of(page: Path) -> Iterator[tuple[str, str, str]]:
    """Go through the fenced blocks of a page: language, caption (a file name) and text."""
    text = page.read_text(encoding="utf-8")
    for match in re.finditer(r"^```(\S.*?)\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE):
        language, body = match[1], match[2]
        caption = re.match(r":caption: (\S+)\n\n", body)
        if caption:
            yield language.split()[-1], caption[1], body[caption.end() :]
        else:
            yield language, "", body


def test_page_write_a_plugin_runs(tmp_path: Path) -> None:
    environment = Environment(tmp_path / "env")
    replacements = {
        "xcvae/plugins/template": str(PLUGINS / "template"),
        'fit={"max_minutes": 3}': TINY,
        "fit: {max_minutes: 3.0}": TINY_YAML,
        "None, None, 8)": "None, None, 40)",
        "time: {step: 8}": "time: {step: 40}",
    }
    said, done = [], []
    for language, file, text in steps_of(ROOT / "docs" / "write-a-plugin.md"):
        for old in [old for old in replacements if old in text]:
            text = text.replace(old, replacements[old])  # noqa: PLW2901 - the same step, smaller
            done.append(old)
        if file:
            (tmp_path / file).write_text(text, encoding="utf-8")
        elif language == "bash":
            said.append(environment.bash(text, tmp_path))
        elif language == "python":
            said.append(environment.python(text, tmp_path))
    assert set(done) == set(replacements)
    for file in (tmp_path / "xcvae-peaks").rglob("*"):
        old = "template" in file.name or (
            file.suffix in (".py", ".toml") and "xcvae_template" in file.read_text(encoding="utf-8")
        )
        assert not old, f"{file} keeps the name of the template"
    project = (tmp_path / "xcvae-peaks" / "pyproject.toml").read_text(encoding="utf-8")
    assert '[project.entry-points.xcvae]\nxcvae_peaks = "xcvae_peaks"\n' in project
    _, tests, listing, scores, run = said
    assert "passed" in tests
    assert "peak(weight=0.01)  [xcvae-peaks 0.1.0]" in listing
    assert "peak_bias" in scores
    assert "mm h-1" in scores
    assert run
    assert (tmp_path / "peaks" / "prior.zarr").exists()
    written = "".join(
        f.read_text(errors="replace") for f in (tmp_path / "peaks").glob("*.*") if f.is_file()
    )
    assert "peak_bias" in written


def test_page_author_runs_in_at_most_60_lines(tmp_path: Path) -> None:
    environment = Environment(tmp_path / "env")
    printed, lines = "", 0
    (tmp_path / "xcvae-levels").mkdir()
    for language, file, text in steps_of(ROOT / "docs" / "author.md"):
        lines += sum(bool(line.strip()) for line in text.splitlines())
        if file:
            (tmp_path / file).write_text(text, encoding="utf-8")
        elif language == "bash":
            environment.bash(text, tmp_path)
        else:
            assert 'fit={"max_minutes": 3}' in text
            short = text.replace('fit={"max_minutes": 3}', TINY)
            printed = environment.python(short.replace("None, None, 8", "None, None, 40"), tmp_path)
    assert lines <= 60
    for source in ("xcvae", "bilinear", "analogues"):
        assert re.search(rf"^{source} +[\d.]+ +[\d.]+", printed, flags=re.MULTILINE)
