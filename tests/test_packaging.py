"""The files of the project agree, and the README's commands and code work."""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from .support.code import run_code

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def pins(file: str = "constraints.txt") -> dict[str, str]:
    lines = (ROOT / file).read_text(encoding="utf-8").splitlines()
    pairs = (line.split("==") for line in lines if line and not line.startswith("#"))
    return {canonicalize_name(name.partition("[")[0]): version for name, version in pairs}


# Each release of dask-cuda wants one release of dask, not the one of the tested set.
UNPINNED = {"dask-cuda"}


def requirements() -> list[Requirement]:
    extras = PROJECT["optional-dependencies"].values()
    texts = PROJECT["dependencies"] + [text for extra in extras for text in extra]
    return [req for req in map(Requirement, texts) if req.name not in {PROJECT["name"], *UNPINNED}]


def block(language: str, number: int) -> str:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)[number]


@pytest.mark.parametrize("requirement", requirements(), ids=str)
def test_every_dependency_is_pinned_inside_its_range(requirement: Requirement) -> None:
    pin = pins()[canonicalize_name(requirement.name)]
    assert requirement.specifier.contains(pin, prereleases=True)


def test_oldest_versions_are_the_lower_bounds() -> None:
    oldest = pins(".ci/constraints-oldest.txt")
    bounds = {
        canonicalize_name(required.name): Version(str(required.specifier).removeprefix(">="))
        for required in map(Requirement, PROJECT["dependencies"])
        if required.name not in {"torch", "safetensors"}
    }
    assert {name: Version(oldest[name]) for name in bounds} == bounds


#: Names of conda-forge, where they differ.
CONDA = {"torch": "pytorch", "dask": "dask-core", "matplotlib": "matplotlib-base"}


def test_conda_recipe_has_the_metadata_of_the_project() -> None:
    recipe = yaml.safe_load((ROOT / ".ci" / "conda" / "recipe.yaml").read_text(encoding="utf-8"))
    required = {
        CONDA.get(found.name, found.name): str(found.specifier)
        for found in map(Requirement, PROJECT["dependencies"])
    }
    listed = dict(text.split() for text in recipe["requirements"]["run"])
    assert listed.pop("python") == PROJECT["requires-python"]
    assert {canonicalize_name(name): bound for name, bound in listed.items()} == required
    assert recipe["context"] == {"name": PROJECT["name"], "version": PROJECT["version"]}
    assert recipe["about"]["license"] == PROJECT["license"]


def test_torch_pin_has_no_local_version() -> None:
    assert "+" not in pins()["torch"]


def test_version_is_the_same_everywhere() -> None:
    version = PROJECT["version"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert importlib.metadata.version("xcvae") == version
    assert citation["version"] == version
    assert citation["keywords"] == PROJECT["keywords"]
    assert re.findall(r"^## \[(\d[^]]*)\]", changelog, flags=re.MULTILINE)[0] == version


def test_first_command_of_the_readme_runs_the_demo() -> None:
    assert block("bash", 0).strip().endswith(".venv/bin/xcvae demo --output demo")
    assert PROJECT["scripts"]["xcvae"] == "xcvae.cli:main"


def test_second_command_of_the_readme_is_the_one_that_ci_runs() -> None:
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    function = re.search(r"^readme_test_command\(\) \{.*?^\}", script, re.DOTALL | re.MULTILINE)
    assert function is not None
    done = subprocess.run(
        ["bash", "-c", f"{function[0]}\nreadme_test_command"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == block("bash", 1)
    assert "pytest" in done.stdout


@pytest.mark.parametrize("link", re.findall(r"\]\((?!https?:)([^)]+)\)", README))
def test_links_of_the_readme_exist(link: str) -> None:
    assert (ROOT / link).exists()


def test_readme_is_short() -> None:
    assert len(README.splitlines()) <= 110
    assert len(block("python", 0).strip().splitlines()) <= 13  # twelve, and an empty one


def test_python_code_of_the_readme_runs(tmp_path: Path) -> None:
    code = block("python", 0)
    limits = {
        '"max_minutes": 1': '"max_steps": 2, "batch_size": 2, "crop": 48, "validations": 1',
        "time=ds.split == 0": "time=slice(0, 300, 20)",
        "time=ds.split == 2": "time=slice(400, None, 50)",
        "diversity=0.2": "spread=0.5",  # three steps give no diversity to ask for
    }
    limited = code
    for old, new in limits.items():
        assert old in limited
        limited = limited.replace(old, new)
    printed = run_code(limited + "\nassert fine.pr_coarse.shape[-2:] == (156, 132)", tmp_path)
    assert (tmp_path / "runs.yaml").exists()
    assert [line for line in printed.splitlines() if line.startswith("| CRPS")]
