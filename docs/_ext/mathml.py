"""Formulas as MathML, which browsers lay out themselves: the pages need no script and no network."""

from __future__ import annotations

import re
from typing import Any

from docutils import nodes
from docutils.utils.math import MathError, pick_math_environment
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx
from sphinx.util import logging

logger = logging.getLogger(__name__)


def setup(app: Sphinx) -> dict[str, Any]:
    """Make ``html_math_renderer = 'mathml'`` known."""
    app.add_html_math_renderer('mathml', (visit_inline, None), (visit_block, None))
    return {'parallel_read_safe': True, 'parallel_write_safe': True}


def visit_inline(self: Any, node: nodes.Element) -> None:
    """Write a formula of a line of text."""
    self.body.append(_mathml(node.astext(), node, block=False))
    raise nodes.SkipNode


def visit_block(self: Any, node: nodes.Element) -> None:
    """Write a formula of its own lines."""
    text = node.astext().strip()
    environment = pick_math_environment(text)
    if environment.startswith('align'):
        text = rf'\begin{{{environment}}}{text}\end{{{environment}}}'
    self.body.append(f'<div class="math">{_mathml(text, node, block=True)}</div>')
    raise nodes.SkipNode


def _mathml(text: str, node: nodes.Element, block: bool) -> str:
    # docutils does not know \Big( and its kin, and puts the index of \hat s_i below the letter.
    plain = re.sub(r'\\[bB]igg?[lr]?(?![a-z])', '', text)
    plain = re.sub(r'\\(hat|bar|tilde|overline)\s*(\w|\{\w+\})(?=[_^])', r'{\\\1 \2{}}', plain)
    try:
        return tex2mathml(plain, as_block=block)
    except MathError as error:
        logger.warning('formula: %s: %s', error, text, location=node)
        return text
