"""Wheels for a machine that has a GPU, torch and no network: what `benchmarks.on_gpu` needs there.

    python -m benchmarks.gpu_wheels DIR [--python 3.12] [--present torch numpy ...]

Follows the requirements of xcvae and of its tests, as they are installed here, and downloads what
the other machine does not have, without CUDA and without torch: about 20 MB. Wheels are for Linux
on x86-64 and the other machine's Python; nothing is installed here. The wheel of xcvae itself is
for its metadata: its modules are imported from the checkout.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable, Sequence
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from benchmarks.harness.arguments import BenchmarkParser
from benchmarks.harness.processes import ROOT

#: What an image for deep learning usually has; see ``--present``.
PRESENT = (
    "torch", "triton", "numpy", "scipy", "pandas", "matplotlib", "pytest", "pyyaml", "safetensors",
    "setuptools", "sympy", "networkx", "jinja2", "pillow", "fonttools", "contourpy", "kiwisolver",
)  # fmt: skip
#: Needed by the tests that need a GPU, beyond the package.
EXTRAS = ("cftime", "hypothesis", "pytest-cov")
#: Largest size of the folder.
MAX_BYTES = 60_000_000
GLIBC = tuple(f"manylinux{name}_x86_64" for name in ("_2_28", "_2_27", "_2_17", "2014"))


def closure(names: Iterable[str], present: Iterable[str]) -> list[str]:
    """Return the packages that ``names`` require, themselves included, without those present.

    Examples
    --------
    >>> closure(["zarr"], ["numpy"])[:2]
    ['donfig', 'google-crc32c']
    """
    known, found = {canonicalize_name(name) for name in present}, set()
    waiting = [canonicalize_name(name) for name in names]
    while waiting:
        name = waiting.pop()
        if name in known or name in found:
            continue
        found.add(name)
        waiting += requirements_of(name)
    return sorted(found)


def requirements_of(name: str) -> list[str]:
    """Return the packages that an installed package requires on Linux, without extras."""
    try:
        lines = requires(name) or []
    except PackageNotFoundError:
        return []
    wanted = [Requirement(line) for line in lines]
    environment = {"extra": "", "sys_platform": "linux", "platform_system": "Linux"}
    return [
        canonicalize_name(need.name)
        for need in wanted
        if need.marker is None or need.marker.evaluate(environment)
    ]


def download(names: Sequence[str], folder: Path, python: str) -> None:
    """Download one wheel per package; one of the version here if there is one for that Python."""
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    pip += ["--python-version", python, "--implementation", "cp", "--dest", str(folder)]
    for system in GLIBC:
        pip += ["--platform", system]
    subprocess.run([*pip, *(f"{name}=={version(name)}" for name in names)], check=True)
    wheel = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*wheel, "--wheel-dir", str(folder), str(ROOT)], check=True)


def main(argv: Sequence[str] | None = None) -> int:
    parser = BenchmarkParser(__file__, __doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--python", default="3.12", help="of the other machine")
    parser.add_argument("--present", nargs="+", default=list(PRESENT), help="packages it has")
    options = parser.parse_args(argv)
    own = [name for name in requirements_of("xcvae") if name != "torch"]
    names = closure([*own, *EXTRAS], options.present)
    options.folder.mkdir(parents=True, exist_ok=True)
    download(names, options.folder, options.python)
    size = sum(file.stat().st_size for file in options.folder.glob("*.whl"))
    limit = f"{size / 1e6:.1f} MB of at most {MAX_BYTES / 1e6:.0f}"
    print(f"{len(names) + 1} wheels, {limit}: xcvae {' '.join(names)}")
    return int(size > MAX_BYTES)


if __name__ == "__main__":
    sys.exit(main())
