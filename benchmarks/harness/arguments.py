"""Command lines of benchmarks: a parser with the options that several of them share."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from benchmarks.harness.processes import module_name

__all__ = ["BenchmarkParser", "comma_separated"]

RESULTS = Path("benchmarks/results")


class BenchmarkParser(argparse.ArgumentParser):
    """A parser whose help is the docstring of the benchmark.

    Parameters
    ----------
    file
        The benchmark's ``__file__``.
    doc
        Its docstring.
    """

    def __init__(self, file: str, doc: str | None) -> None:
        super().__init__(
            prog=f"python -m {module_name(file)}",
            description=doc,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )

    def add_output_file(self, default: str | None = None) -> None:
        """Add ``--output``, a JSON file; ``default`` is its name in ``benchmarks/results``."""
        path = None if default is None else RESULTS / default
        self.add_argument("--output", type=Path, default=path, help="results as JSON")

    def add_output_folder(self, *, required: bool = True) -> None:
        """Add ``--output``, a folder for results and models."""
        self.add_argument(
            "--output",
            type=Path,
            required=required,
            metavar="DIR",
            help="folder for results, and for models and checkpoints that later calls use again",
        )

    def add_device(self, default: str = "cpu") -> None:
        """Add ``--device``."""
        self.add_argument(
            "--device",
            type=_device,
            default=default,
            help="auto, cpu, cuda or cuda:NUMBER; default: %(default)s",
        )

    def add_preset(self) -> None:
        """Add ``--preset``, of xcvae's generator."""
        self.add_argument("--preset", default="small", help="of xcvae's generator")

    def add_record(self) -> None:
        """Add ``--data``, ``--target`` and ``--coarsen``, which select a rain record."""
        self.add_argument(
            "--data",
            type=Path,
            metavar="STORE",
            help="Zarr store or NetCDF file; default: the radar that comes with xcvae",
        )
        self.add_argument("--target", help="name of the rain; default: pr_hr or pr")
        self.add_argument(
            "--coarsen",
            type=int,
            help="pixels along a side of a block; default 8, bundled radar 12",
        )

    def add_parts(self, parts: Iterable[str]) -> None:
        """Add the parts of the benchmark to run, as words; all by default."""
        names = list(parts)

        def part(text: str) -> str:
            if text not in names:
                raise argparse.ArgumentTypeError(f"unknown '{text}': {', '.join(names)}")
            return text

        self.add_argument(
            "parts",
            type=part,
            nargs="*",
            metavar="PART",
            help=f"of {', '.join(names)}; default: all",
        )

    def add_json(self, **helps: str) -> None:
        """Add options that take a JSON object, with their help by name."""
        for name, text in helps.items():
            self.add_argument(f"--{name}", type=json.loads, default={}, metavar="JSON", help=text)

    def add_experiment(self, device: str, **helps: str) -> None:
        """Add the options of trainings on a record that may take several calls.

        Folder, record, device and time limit of a call, and JSON options for generator and fit of
        xcvae; ``helps`` has more JSON options.
        """
        self.add_output_folder()
        self.add_record()
        self.add_device(device)
        self.add_json(
            generator="more keys of xcvae's generator", fit="keys of xcvae's fit", **helps
        )
        self.add_argument(
            "--stop-after", type=float, metavar="SECONDS", help="the next call continues"
        )


def comma_separated(kind: Callable[[str], Any] = str) -> Callable[[str], list[Any]]:
    """Return a parser of ``a,b,c``, for the ``type`` of an argument."""

    def parse(text: str) -> list[Any]:
        return [kind(part) for part in text.split(",")]

    return parse


def _device(text: str) -> str:
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", text):
        raise argparse.ArgumentTypeError(f"expected auto, cpu, cuda or cuda:NUMBER, got '{text}'")
    return text
