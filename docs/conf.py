"""Configuration of Sphinx: ``sphinx-build -W docs docs/_build``."""

from __future__ import annotations

from importlib.metadata import version as version_of

project = "xcvae"
author = "xcvae developers"
release = version = version_of("xcvae")

extensions = [
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
]
exclude_patterns = ["_build", "data"]

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

autosummary_generate = True
autodoc_typehints = "none"  # docstrings describe types in words
numpydoc_show_class_members = False
numpydoc_xref_param_type = False

html_theme = "alabaster"
html_title = f"xcvae {release}"
html_theme_options = {
    "description": "Generative ensembles of rain fields, in xarray.",
    "fixed_sidebar": True,
}
