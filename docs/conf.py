"""Configuration of Sphinx: ``sphinx-build -W docs docs/_build``."""

from __future__ import annotations

import os
import sys
from importlib.metadata import version as version_of
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "extensions"))

project = "xcvae"
author = "xcvae developers"
copyright = "xcvae developers"
release = version = version_of("xcvae")

extensions = [
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx_copybutton",
    "mathml",  # extensions/: equations without scripts from the network
    "recorded",  # extensions/: outputs of the pages that teach
]
html_math_renderer = "mathml"
exclude_patterns = ["_build", "data", "extensions", "outputs"]

myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3

autosummary_generate = True
autosummary_ignore_module_all = False
autodoc_typehints = "signature"  # docstrings describe meanings, annotations the types
autodoc_typehints_format = "short"
maximum_signature_line_length = 72
default_role = "py:obj"  # names in docstrings link to what they name
numpydoc_show_class_members = False
numpydoc_xref_param_type = False

# Links into the documentation of other packages need a network, which a build must not need.
if os.environ.get("XCVAE_DOCS_LINKS"):
    extensions.append("sphinx.ext.intersphinx")
    intersphinx_mapping = {
        "dask": ("https://docs.dask.org/en/stable", None),
        "numpy": ("https://numpy.org/doc/stable", None),
        "python": ("https://docs.python.org/3", None),
        "torch": ("https://docs.pytorch.org/docs/stable", None),
        "xarray": ("https://docs.xarray.dev/en/stable", None),
        "zarr": ("https://zarr.readthedocs.io/en/stable", None),
    }

copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True
copybutton_selector = "div:not(.output) > div.highlight pre"

html_theme = "furo"
html_title = f"xcvae {release}"
html_static_path = ["style.css"]
html_css_files = ["style.css"]
