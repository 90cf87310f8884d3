"""Ranges of parameters, for ``__post_init__`` of components."""

from __future__ import annotations

import math

from xcvae.errors import ComponentError, explain

__all__ = ["in_range"]


def in_range(
    component: object,
    parameter: str,
    low: float = -math.inf,
    high: float = math.inf,
    *,
    above: float | None = None,
) -> None:
    """Refuse a parameter of a component that is out of its range.

    Parameters
    ----------
    component
        The component, usually ``self`` in ``__post_init__``.
    parameter
        Name of the field. None and text (a quantity with units) are left alone.
    low, high
        Smallest and largest value that is allowed.
    above
        Instead of ``low``: what the value must be larger than.

    Raises
    ------
    ComponentError
        Naming component, parameter, the range and the value.

    Examples
    --------
    >>> from dataclasses import dataclass
    >>> @dataclass(frozen=True)
    ... class Peak:
    ...     share: float = 0.5
    ...     def __post_init__(self):
    ...         in_range(self, "share", 0, 1)
    >>> Peak(share=2.0)
    Traceback (most recent call last):
    xcvae.errors.ComponentError: Peak, parameter 'share': expected a number from 0 to 1, ...
    """
    value = getattr(component, parameter)
    if not isinstance(value, int | float):
        return
    if low <= value <= high and (above is None or value > above):
        return
    raise ComponentError(
        explain(
            f"{type(component).__name__}, parameter '{parameter}'",
            expected=_words(low, high, above),
            got=repr(value),
            remedy="Change the value.",
        )
    )


def _words(low: float, high: float, above: float | None) -> str:
    parts = []
    if above is not None:
        parts.append(f"above {above:g}")
    elif low > -math.inf:
        parts.append(f"from {low:g}" if high < math.inf else f">= {low:g}")
    if high < math.inf:
        parts.append(f"to {high:g}" if parts and above is None else f"at most {high:g}")
    return " ".join(["a number", " and ".join(parts) if above is not None else " ".join(parts)])
