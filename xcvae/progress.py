"""Progress of long computations: bars on a terminal and in notebooks, lines elsewhere."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tqdm.std import tqdm


def progress_bar(progress: bool, **options: Any) -> tqdm[Any]:
    """Return a bar, shown on a terminal or in a notebook.

    Parameters
    ----------
    progress
        Show it; else it counts silently.
    options
        Those of ``tqdm.auto.tqdm``.
    """
    from tqdm.auto import tqdm

    return tqdm(disable=not (progress and (_in_notebook() or on_terminal())), **options)


def on_terminal() -> bool:
    """Return True if a person may watch: the error output is a terminal."""
    return sys.stderr is not None and sys.stderr.isatty()


def print_line(progress: bool, text: str) -> None:
    """Print a line of progress to the error output.

    Above the bars that are shown, so that a line stays in a notebook or a log.
    """
    if progress and sys.stderr is not None:
        from tqdm.auto import tqdm

        tqdm.write(text, file=sys.stderr)


def _in_notebook() -> bool:
    from tqdm.auto import tqdm

    # The widget of notebooks; their streams say that they are no terminals.
    return any(cls.__module__ == "tqdm.notebook" for cls in tqdm.__mro__[1:])
