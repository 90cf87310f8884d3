"""The command line of every benchmark."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import pytest

from benchmarks.harness.processes import ROOT, module_name

FOLDERS = ("speed", "skill", "diagnosis", "robustness")
SCRIPTS = [
    path
    for folder in FOLDERS
    for path in sorted((ROOT / "benchmarks" / folder).glob("*.py"))
    if "__main__" in path.read_text(encoding="utf-8")
]
SCRIPTS += [ROOT / "benchmarks" / f"{name}.py" for name in ("compare", "gpu_wheels", "on_gpu")]
MODULES = [module_name(str(path)) for path in SCRIPTS]


@pytest.mark.parametrize("module", MODULES)
def test_help_shows_how_to_run_the_benchmark(
    module: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        import_module(module).main(["--help"])
    assert end.value.code == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f"usage: python -m {module}")
    # The docstring names the command as it is today.
    assert f"\n    python -m {module} " in printed


def test_readme_lists_every_benchmark() -> None:
    readme = Path(ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8")
    assert [module for module in MODULES if f"`{module}`" not in readme] == []
