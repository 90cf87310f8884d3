"""Work in fresh processes, and the memory of a process.

A benchmark measures peak memory and start-up in a process of its own: `in_fresh_process` runs a
function of a benchmark there and returns its result. Memory is read from ``/proc``, so that
needs Linux.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["WorkerError", "in_fresh_process", "memory", "module_name", "reset_peak_memory"]

ROOT = Path(__file__).resolve().parents[2]


class WorkerError(RuntimeError):
    """A fresh process failed; the message is its standard error."""


def module_name(file: str) -> str:
    """Return the dotted name of a benchmark, also if it runs as ``__main__``."""
    return ".".join(Path(file).resolve().relative_to(ROOT).with_suffix("").parts)


def in_fresh_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function of a benchmark in a fresh process.

    Parameters
    ----------
    function
        A function at the top level of a module of benchmarks; its result must be JSON.
    *arguments
        JSON, too.

    Returns
    -------
    object
        The result of the function.

    Raises
    ------
    WorkerError
        The process ended with an error.
    """
    module = module_name(function.__code__.co_filename)
    command = [sys.executable, "-m", "benchmarks.harness.processes", module, function.__name__]
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    done = subprocess.run(
        [*command, json.dumps(arguments)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
    )
    if done.returncode:
        raise WorkerError(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def memory(key: str) -> int:
    """Return bytes of this process: ``VmRSS`` now, ``VmHWM`` at most, ``VmData`` allocated."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{key}:"))


def reset_peak_memory() -> None:
    """Let ``VmHWM`` start again from the memory that is resident now."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


if __name__ == "__main__":
    module, function, arguments = sys.argv[1:]
    result = getattr(importlib.import_module(module), function)(*json.loads(arguments))
    print(json.dumps(result))
