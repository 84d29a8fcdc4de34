"""Sphinx configuration of the documentation: `make docs` writes docs/_build/html."""

import sys
from pathlib import Path

from pygments.lexers.special import TextLexer
from sphinx.application import Sphinx

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent / "_ext")]

import vmae_det  # noqa: E402

project = "vmae_det"
author = "the authors of vmae_det"
copyright = "the authors of vmae_det, Apache-2.0"
version = release = vmae_det.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx_copybutton", "reference"]
exclude_patterns = ["_build", "_ext"]
suppress_warnings = ["myst.header"]  # included files begin at a heading of their own

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 4

smartquotes = False  # they turn the two hyphens of an option into a dash
default_role = "code"
autodoc_member_order = "bysource"
autodoc_typehints = "none"
autodoc_preserve_defaults = True

html_theme = "furo"
html_title = f"vmae_det {release}"
html_theme_options = {"sidebar_hide_name": False}
html_show_sphinx = False
copybutton_prompt_text = r"\$ "
copybutton_prompt_is_regexp = True


def setup(app: Sphinx) -> None:
    """Show CSV as plain text. Pygments has no lexer for it."""
    app.add_lexer("csv", TextLexer)
