"""Sphinx: `make docs` builds the pages into build/docs. Nothing here asks the network for anything."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
project = "rebnn_mm"
release = re.search(r'__version__ = "(.+?)"', (ROOT / "rebnn_mm/__init__.py").read_text()).group(1)
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
# tutorial.ipynb shows the outputs that are stored in it; a slow test runs it
nb_execution_mode = "off"
html_theme = "furo"
html_title = f"rebnn_mm {release}"
myst_heading_anchors = 4
suppress_warnings = ["misc.highlighting_failure"]
napoleon_google_docstring, napoleon_numpy_docstring = True, False
autodoc_member_order = "bysource"
autodoc_typehints = "description"
