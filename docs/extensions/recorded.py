"""Show below the Python blocks of a page what ``docs/record.py`` recorded, and offer the notebook.

The notebook is the page itself, read by jupytext, with the recorded outputs; without jupytext, no
notebooks are written.
"""

from __future__ import annotations

import base64
import json
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx

DOCS = Path(__file__).parents[1]
sys.path.insert(0, str(DOCS))

from record import OUTPUTS, fingerprint  # noqa: E402


def recorded(page: str) -> dict[str, dict[str, Any]]:
    """Return the outputs of a page by the fingerprint of their code."""
    file = OUTPUTS / f"{page}.json"
    if not file.exists():
        return {}
    return {block["code"]: block for block in _read(file)["blocks"]}


def _read(file: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return found


def show_outputs(app: Sphinx, doctree: nodes.document) -> None:
    """Insert outputs below their blocks, before images are collected."""
    page = app.env.docname
    outputs = recorded(page)
    if not outputs:
        return
    for block in list(doctree.findall(nodes.literal_block)):
        found = outputs.get(fingerprint(block.astext().rstrip("\n") + "\n"))
        if found is None or block.get("language") != "python":
            continue
        shown: list[nodes.Node] = []
        if found["text"]:
            text = "\n".join(found["text"])
            shown.append(nodes.literal_block(text, text, language="text", classes=["output"]))
        for name in found["figures"]:
            image = nodes.image(uri=f"outputs/{name}", alt=f"Figure of the code above: {name}")
            shown.append(nodes.paragraph("", "", image, classes=["output"]))
        parent, position = block.parent, block.parent.index(block)
        parent.insert(position + 1, shown)
    if find_spec("jupytext") and app.builder.format == "html":
        made = _read(OUTPUTS / f"{page}.json")["recorded"]
        link = f'<p class="notebook"><a href="notebooks/{page}.ipynb" download>'
        link += f"Download as a notebook</a>. Outputs: {made}.</p>"
        title = next(doctree.findall(nodes.title))
        title.parent.insert(1, nodes.raw("", link, format="html"))


def write_notebooks(app: Sphinx, error: Exception | None) -> None:
    """Write every recorded page as a notebook with its outputs."""
    if error or app.builder.format != "html" or not find_spec("jupytext"):
        return
    folder = Path(app.outdir) / "notebooks"
    folder.mkdir(exist_ok=True)
    for file in sorted(OUTPUTS.glob("*.json")):
        (folder / f"{file.stem}.ipynb").write_text(notebook(file.stem), encoding="utf-8")


def notebook(page: str) -> str:
    """Return a page as a notebook, with its outputs."""
    import jupytext
    from nbformat import v4

    text = (DOCS / f"{page}.md").read_text(encoding="utf-8")
    made = jupytext.reads(text, fmt="md")
    outputs = recorded(page)
    for cell in made.cells:
        found = outputs.get(fingerprint(cell.source.rstrip("\n") + "\n"))
        if found is None or cell.cell_type != "code":
            continue
        if found["text"]:
            printed = "\n".join(found["text"]) + "\n"
            cell.outputs.append(v4.new_output("stream", name="stdout", text=printed))
        for name in found["figures"]:
            data = base64.b64encode((OUTPUTS / name).read_bytes()).decode()
            cell.outputs.append(v4.new_output("display_data", {"image/png": data}))
    return str(jupytext.writes(made, fmt="ipynb"))


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("doctree-read", show_outputs, priority=100)
    app.connect("build-finished", write_notebooks)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
