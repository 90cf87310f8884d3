"""Signs of life on a terminal; silence everywhere else."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tqdm.std import tqdm

__all__ = ["of_dask", "steps"]


def of_dask(progress: bool, text: str) -> AbstractContextManager[Any]:
    """Show the progress of Dask computations inside a ``with`` block that take over a second."""
    from tqdm.dask import TqdmCallback

    # disable=None: quiet where there is no terminal.
    shown: AbstractContextManager[Any] = TqdmCallback(
        desc=text, delay=1.0, disable=None if progress else True
    )
    return shown


def steps(progress: bool, text: str, total: int) -> tqdm[Any]:
    """Return a bar of at most ``total`` steps, to be updated by the caller."""
    from tqdm.auto import tqdm

    return tqdm(total=total, desc=text, delay=1.0, leave=False, disable=None if progress else True)
