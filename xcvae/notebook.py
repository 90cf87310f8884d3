"""Overviews of objects, as text and for notebooks: facts, small maps, and what to type next."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape

import numpy as np

#: Colours of small maps: masked, dry, then from little to much rain.
COLOURS = ("#a8a8a8", "#f3f2ee", "#bddfef", "#97cceb", "#74b8e8", "#458bdc", "#716bc2", "#8c479b",
           "#81023e", "#410b13")  # fmt: skip
#: Columns of the names of facts in text; pixels of the height of a map; maps at most.
WIDTH, HEIGHT, MAPS = 12, 72, 6
BOX = (
    "border:1px solid rgba(128,128,128,.45);border-radius:6px;padding:10px 14px;max-width:760px;"
    "font-family:system-ui,sans-serif;font-size:14px;line-height:1.45"
)
GRID = "display:grid;grid-template-columns:max-content minmax(0,1fr);gap:1px 14px;margin:6px 0"
CODE = "margin:4px 0 8px;padding:6px 10px;background:rgba(128,128,128,.12);overflow-x:auto"


@dataclass(frozen=True)
class Overview:
    """An object in a few lines.

    Attributes
    ----------
    title
        Kind and name.
    facts
        Text by name; empty ones are left out.
    following
        Code to type next.
    maps
        Small maps, (n, y, x) with north as the first row, 0 for dry and NaN for masked pixels, in
        any units that rise with the rain.
    alt
        Caption of the maps.
    content
        Text of several lines in columns, such as a table.
    """

    title: str
    facts: Mapping[str, object]
    following: Sequence[str] = ()
    maps: Sequence[np.ndarray] = ()
    alt: str = ""
    content: str = field(default="", repr=False)

    @property
    def known(self) -> dict[str, str]:
        """Facts that are not empty."""
        return {k: str(v) for k, v in self.facts.items() if v not in (None, "", [])}

    def __str__(self) -> str:
        lines = [self.title, *(f"  {k:<{WIDTH}} {text}" for k, text in self.known.items())]
        lines += [f"  {line}" for line in self.content.splitlines()]
        if self.following:
            lines += ["  what to type next", *(f"    {line}" for line in self.following)]
        return "\n".join(lines)

    def html(self) -> str:
        """Return the overview as HTML, in the colours of the notebook."""
        rows = "".join(
            f'<span style="opacity:.7">{escape(name)}</span>'
            f'<span style="overflow-wrap:anywhere">{escape(text)}</span>'
            for name, text in self.known.items()
        )
        maps = small_maps(self.maps, self.alt)
        content = f'<pre style="{CODE}">{escape(self.content)}</pre>' if self.content else ""
        code = escape("\n".join(self.following))
        head = '<span style="opacity:.7">What to type next</span>'
        following = f'{head}<pre style="{CODE}">{code}</pre>' if code else ""
        return (
            f'<div style="{BOX}"><b>{escape(self.title)}</b><div style="{GRID}">{rows}</div>'
            f"{maps}{content}{following}</div>"
        )


def small_maps(maps: Sequence[np.ndarray], alt: str) -> str:
    """Write maps side by side as images; their largest value has the darkest colour."""
    few = [one for one in maps if one.size][:MAPS]
    if not few:
        return ""
    most = max(float(np.nanmax(one, initial=0.0)) for one in few) or 1.0
    images = "".join(
        f'<img alt="{escape(alt)}" src="data:image/png;base64,{_png(one / most)}" style="'
        f'height:{HEIGHT}px;image-rendering:pixelated;margin:0 6px 0 0;display:inline-block">'
        for one in few
    )
    caption = f'<div style="opacity:.7;font-size:13px">{escape(alt)}</div>'
    return f'<div style="margin:8px 0">{images}{caption}</div>'


def _png(shares: np.ndarray) -> str:
    """Return a map of shares from 0 to 1 as PNG in base64."""
    from PIL import Image

    classes = len(COLOURS) - 2
    codes = 1 + np.ceil(np.clip(np.nan_to_num(shares), 0.0, 1.0) * classes)
    codes[~np.isfinite(shares)] = 0
    height, width = codes.shape
    image = Image.frombytes("P", (width, height), codes.astype(np.uint8).tobytes())
    image.putpalette([part for colour in COLOURS for part in bytes.fromhex(colour[1:])])
    content = io.BytesIO()
    image.save(content, format="PNG", optimize=True, bits=4)
    return base64.b64encode(content.getvalue()).decode("ascii")
