"""The house stays in order: import directions, what an import costs, and the size of modules."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "xcvae"
MODULES = sorted(PACKAGE.rglob("*.py"))
MAX_LINES = 320
MAX_FUNCTION_LINES = 60
RANKS = ("errors", "files", "registry", "fields", "metrics", "generator", "ensemble", "verify")
# Where a heavy package may be imported at all, even inside a function: files or folders.
HOMES = {
    "torch": (
        "generator",
        "fields/batch.py",
        "fields/batches.py",
        "ensemble/loader.py",
        "ensemble/parts.py",  # for the type checker
        "ensemble/sampling.py",
        "ensemble/workers.py",
        "testing/losses.py",
        "testing/states.py",
        "verify/superresolution.py",
    ),
    "safetensors": ("generator",),
    "intake": ("ensemble/catalog.py",),
    "icechunk": ("ensemble/icechunks.py",),
}
# What `import xcvae` must not load: everything that takes long and is not always needed.
LAZY = ("torch", "intake", "matplotlib.pyplot", "scipy.stats", "pint", "distributed", "scores")


def place(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def imports(path: Path) -> set[str]:
    """Absolute dotted names that a module imports, those inside functions too."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parts = path.relative_to(PACKAGE.parent).parts
            base = ".".join(parts[: -node.level]) if node.level else ""
            module = ".".join(filter(None, (base, node.module)))
            found |= {module, *(f"{module}.{alias.name}" for alias in node.names)}
    return found


@pytest.mark.parametrize("path", MODULES, ids=place)
def test_heavy_packages_are_imported_at_home_only(path: Path) -> None:
    for package in {name.split(".")[0] for name in imports(path)} & HOMES.keys():
        here = place(path)
        assert any(here == home or here.startswith(f"{home}/") for home in HOMES[package]), (
            f"{here} imports {package}, which belongs in {HOMES[package]}"
        )


@pytest.mark.parametrize("path", MODULES, ids=place)
def test_imports_point_one_way(path: Path) -> None:
    room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    rank = RANKS.index(room) if room in RANKS else len(RANKS)
    for name in imports(path):
        target = name.split(".")[1] if name.startswith("xcvae.") else None
        if target in RANKS:
            assert RANKS.index(target) <= rank, f"{place(path)} imports {name}, which is above it"


@pytest.mark.parametrize("path", MODULES, ids=place)
def test_modules_and_functions_are_short(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    lines = len(text.splitlines())
    assert lines < MAX_LINES, f"{place(path)} has {lines} lines"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            start = node.body[0].end_lineno if ast.get_docstring(node) else node.lineno
            length = (node.end_lineno or 0) - (start or 0)
            assert length < MAX_FUNCTION_LINES, f"{node.name} has {length} lines"


def test_every_room_is_a_regular_package() -> None:
    # Without __init__.py the import contracts would pass over a room in silence.
    assert {path.parent for path in MODULES} == {
        path.parent for path in MODULES if path.name == "__init__.py"
    }


def test_there_is_no_dump_for_leftovers() -> None:
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
