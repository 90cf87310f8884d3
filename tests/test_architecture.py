"""The structure of the package: import directions, sizes, vocabulary, and the cost of an import."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from .support.code import imported_names

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "xcvae"
MODULES = sorted(PACKAGE.rglob("*.py"))
RANKS = (
    "errors",
    "files",
    "progress",
    "notebook",
    "registry",
    "fields",
    "metrics",
    "generator",
    "ensemble",
    "verify",
)
# What `import xcvae` must not load: everything that takes long and is not always needed.
LAZY = ("torch", "intake", "matplotlib.pyplot", "scipy.stats", "pint", "distributed", "scores")

MAX_LINES = 700
MAX_FUNCTION_LINES = 40
MAX_FILES = 15
MAX_SINGLE_IMPORTERS = 40
# Modules that one other module imports, each with the reason why it is not a part of that module.
SINGLE_IMPORTER = {
    "accessor": "registers ds.cvae when the package is imported",
    "ensemble.append": "compares a request with a finished store; sample() draws what it adds",
    "ensemble.execution.cluster": "backend: imports distributed",
    "ensemble.loader": "public verb, imported on first use",
    "ensemble.sources": "reads blocks of samples for the loader",
    "ensemble.store.netcdf": "backend: NetCDF files, a method of the accessor",
    "fields.regridding.place": "decides on a condition; describe() collects all of them",
    "generator.losses.elbo": "family of components",
    "generator.losses.pointwise": "family of components",
    "generator.losses.scores": "family of components",
    "generator.losses.spectral": "family of components",
    "generator.means": "posterior means in tiles; the sampler is its interface",
    "generator.network.initialization": "initial weights and why they are what they are",
    "generator.network.layers": "building blocks of the ladder",
    "generator.noise.maps": "chooses the backend of the noise; the package is its interface",
    "generator.noise.philox_torch": "backend: torch",
    "generator.noise.philox_triton": "backend: Triton",
    "generator.roles": "variables found by role; the model is its interface",
    "generator.training.calibration": "temperature and dial, measured after training",
    "generator.training.trainer": "the loop of steps; train() prepares it",
    "metrics.ensemble": "family of components; the package is its interface",
    "pipeline.propose": "writes first configurations; the package is its interface",
    "pipeline.run": "order of the steps; the package is its interface",
    "registry.builtin": "table of the built-in components",
    "testing.baselines": "suite, imported on first use",
    "testing.losses": "suite, imported on first use",
    "testing.metrics": "suite, imported on first use",
    "testing.postprocessors": "suite, imported on first use",
    "testing.storms": "suite, imported on first use",
    "verify.baselines.temporal": "family of components; the package is its interface",
    "verify.baselines.rainfarm": "family of components; the package is its interface",
    "verify.diagnosis.artefacts": "measurements of patterns of the grid",
    "verify.diagnosis.detectors": "all detectors as one table",
    "verify.diagnosis.diagnosis": "public verb; the package is its interface",
    "verify.plots.amounts": "one kind of figure",
    "verify.plots.curves": "one kind of figure",
    "verify.plots.geography": "coastlines and scale bars: imports cartopy where there is one",
    "verify.report.write": "public entry of the report",
    "verify.utility.comparison": "public verb; the package is its interface",
    "verify.utility.downstream": "backend: imports torch",
}
# Words of no field: names that say less than the terms in docs/design/house.md.
DIALECT = {
    "aside", "begun", "behind", "beside", "dialled", "freed", "heldback", "kept", "landing",
    "mended", "pen", "portray", "rehearse", "surely", "tidy", "told", "travelling",
}  # fmt: skip


def name_of(path: Path) -> str:
    """Dotted name inside the package; that of a package itself for its __init__."""
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix("__init__")


def place(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def allowed_importers() -> dict[str, set[str]]:
    """Heavy package -> modules that may import it, from the one list: pyproject.toml."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    allowed = defaultdict(set)
    for contract in settings["tool"]["importlinter"]["contracts"]:
        for package in contract.get("forbidden_modules", ()):
            allowed[package] |= set()
        for rule in contract.get("ignore_imports", ()):
            importer, _, package = rule.partition(" -> ")
            allowed[package].add(importer)
    return dict(allowed)


@pytest.mark.parametrize("path", MODULES, ids=place)
def test_heavy_packages_are_imported_by_the_listed_modules_only(path: Path) -> None:
    allowed = allowed_importers()
    module = f"xcvae.{name_of(path)}".rstrip(".")
    for package in {name.split(".")[0] for name in imported_names(path)} & allowed.keys():
        patterns = [re.escape(rule).replace(r"\*\*", r".+") for rule in allowed[package]]
        assert any(re.fullmatch(pattern, module) for pattern in patterns), (
            f"{module} imports {package}; pyproject.toml allows {sorted(allowed[package])}"
        )


@pytest.mark.parametrize("path", MODULES, ids=place)
def test_imports_point_one_way(path: Path) -> None:
    room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    rank = RANKS.index(room) if room in RANKS else len(RANKS)
    for name in imported_names(path):
        target = name.split(".")[1] if name.startswith("xcvae.") else None
        if target in RANKS:
            assert RANKS.index(target) <= rank, f"{place(path)} imports {name}, which is above it"


def functions(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Names of all functions, and the lines of their bodies without the docstring."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            start = node.body[0].end_lineno if ast.get_docstring(node) else node.lineno
            yield node.name, (node.end_lineno or 0) - (start or 0)


@pytest.mark.parametrize("path", MODULES, ids=place)
def test_modules_and_functions_keep_the_rule_of_size(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= MAX_LINES
    for name, lines in functions(ast.parse(text)):
        assert lines < MAX_FUNCTION_LINES, f"{name} has {lines} lines"


def test_folders_keep_the_rule_of_size() -> None:
    files = defaultdict(int)
    for path in MODULES:
        files[place(path.parent)] += 1
    assert {folder: count for folder, count in files.items() if count > MAX_FILES} == {}


def test_modules_with_a_single_importer_have_a_reason() -> None:
    importers = defaultdict(set)
    names = {f"xcvae.{name_of(path)}".rstrip("."): path for path in MODULES}
    for name, path in names.items():
        if path.name == "__main__.py":  # the command line by another name
            continue
        for target in imported_names(path) & names.keys() - {name}:
            importers[target].add(name)
    single = {
        name.removeprefix("xcvae.")
        for name, path in names.items()
        if len(importers[name]) == 1 and path.name != "__init__.py"
    }
    assert single == SINGLE_IMPORTER.keys()
    assert len(single) <= MAX_SINGLE_IMPORTERS


def identifiers(tree: ast.Module) -> Iterator[str]:
    """Names that a module defines: functions, classes, arguments, variables, attributes."""
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                yield name
            case ast.ClassDef(name=name) | ast.arg(arg=name):
                yield name
            case ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()):
                yield name


CODE = [*MODULES, *sorted(p for p in (ROOT / "tests").rglob("*.py") if p != Path(__file__))]


@pytest.mark.parametrize("path", CODE, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_names_use_the_terms_of_the_field(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    words = {
        name: set(re.findall(r"[A-Z]?[a-z]+", name)) for name in {path.stem, *identifiers(tree)}
    }
    # The name of a test is a sentence, in which these are plain English. Checks of the conformance
    # suites are tests with public names: a plugin switches one off by its name.
    is_test = not path.is_relative_to(PACKAGE)
    found = {
        name
        for name, parts in words.items()
        if {part.lower() for part in parts}
        & (DIALECT - {"beside", "kept"} if is_test or name.startswith("test_") else DIALECT)
    }
    assert not found, "see the glossary in docs/design/house.md"


def test_house_page_lists_every_module_with_its_summary() -> None:
    page = (ROOT / "docs" / "design" / "house.md").read_text(encoding="utf-8")
    listed = dict(re.findall(r"(?m)^- `([\w/]+\.py)`: (.+)$", page))
    summaries = {
        place(path): (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").split(
            "\n"
        )[0]
        for path in MODULES
        if path.name != "__init__.py"
    }
    assert listed == summaries


def test_every_room_is_a_regular_package() -> None:
    # Without __init__.py the import contracts would pass over a room in silence.
    assert {path.parent for path in MODULES} == {
        path.parent for path in MODULES if path.name == "__init__.py"
    }


def test_no_module_is_a_dump_for_leftovers() -> None:
    assert not {path.stem for path in MODULES} & {"utils", "util", "helpers", "misc", "common"}


def test_import_is_light() -> None:
    code = "import sys, xcvae; print('\\n'.join(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True
    )
    assert "xcvae" in done.stdout.splitlines()
    assert not set(LAZY) & set(done.stdout.splitlines())


def test_import_is_fast() -> None:
    # The contract is 0.5 s beyond xarray. One slow start on a busy machine proves nothing.
    code = (
        "import xarray, time; start = time.perf_counter(); import xcvae; "
        "print(time.perf_counter() - start)"
    )
    seconds = min(
        float(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout)
        for _ in range(3)
    )
    assert seconds < 0.5
