"""Run Python code in a process of its own, and read which modules a file imports."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path


def run_code(code: str, folder: Path) -> str:
    """Run code in a folder, with warnings as errors, and return its output."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{done.stderr}\n{code}"
    return done.stdout


def imported_names(path: Path) -> set[str]:
    """Return the dotted names that a file imports, those inside functions too."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            found |= {node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found
