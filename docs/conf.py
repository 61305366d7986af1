"""Sphinx: how the pages of docs/ become the site. `make docs` builds it, with warnings as errors, without a network.

Formulas become MathML when the site is built, so that a page fetches nothing.
"""

import re
import sys
from pathlib import Path
from typing import Any

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from mlsm import __version__  # the path comes first, so that the page shows this tree and no other

project = "mlsm"
author = "The mlsm contributors"
copyright = "the mlsm contributors, BSD-3-Clause"  # Sphinx wants this name
release = version = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["examples/*", "pictures/*"]
html_theme = "furo"
html_title = f"mlsm {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_math_renderer = "mathml"
html_show_sourcelink = False

myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3
myst_dmath_double_inline = True

# The order of the pages. As toctree directives, the repository's web pages would show it as code.
contents = {
    "index": {
        "Use": "tutorials/index coming-from api use-it",
        "Reference": "contract derivation numerics performance support suite gallery",
        "Develop": "design write-a-kernel contributing",
    },
    "tutorials/index": {
        "Tutorials": "pytorch jax numpy-loop labels common-mistakes dask cupy missing-labels boosting transformers "
        "frameworks imbalance many-classes siglip distillation",
    },
}

autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the sections of each docstring say more than the annotations
napoleon_numpy_docstring, napoleon_google_docstring = True, False
napoleon_use_rtype = napoleon_use_param = False  # arguments that share a description stay on one line
default_role = "py:obj"  # in docstrings a name between single backticks is code, and a link where it is public
nitpicky = False
highlight_language = "none"  # a block without a language is a formula
pygments_style, pygments_dark_style = "friendly", "github-dark"


def _mathml(formula: str, display: str) -> str:
    return str(convert(formula, display=display))


def _visit_inline(self: Any, node: nodes.math) -> None:
    self.body.append(_mathml(node.astext(), "inline"))
    raise nodes.SkipNode


def _visit_block(self: Any, node: nodes.math_block) -> None:
    self.body.append(f'<div class="formula">{_mathml(node.astext(), "block")}</div>')
    raise nodes.SkipNode


def _bars(app: Sphinx, what: str, name: str, value: Any, options: Any, lines: list[str]) -> None:
    """Docstrings are written for a terminal, where |x| is a size; Sphinx would read bars as a substitution."""
    lines[:] = [line if line.startswith(" ") else re.sub(r"\|(\w+)\|", r"\\|\1\\|", line) for line in lines]


def _contents(app: Sphinx, page: str, source: list[str]) -> None:
    """Adds the lists of pages to the two pages that have one."""
    for caption, names in app.config.contents.get(page, {}).items():
        source[0] += "\n".join(["\n```{toctree}", f":caption: {caption}", ":hidden:", "", *names.split(), "```\n"])


def _names(app: Sphinx, doctree: nodes.document) -> None:
    """Marks what is one short name, so that the style sheet can keep it on one line in a narrow column."""
    for literal in doctree.findall(nodes.literal):
        if re.fullmatch(r"[\w\".]{1,16}", literal.astext()):
            literal["classes"].append("name")


def setup(app: Sphinx) -> None:
    app.add_config_value("contents", {}, "env")
    app.connect("source-read", _contents)
    app.connect("autodoc-process-docstring", _bars)
    app.connect("doctree-read", _names)
    app.add_html_math_renderer("mathml", (_visit_inline, None), (_visit_block, None))
