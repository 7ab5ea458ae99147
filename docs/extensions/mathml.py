"""A math renderer for Sphinx: LaTeX to MathML by docutils' own converter, with the equation number beside it."""

import re

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.util.math import get_node_equation_number


def mathml(node, as_block):
    """The MathML of a node; |x| as a pair of fences, which plain bars would not be."""
    return tex2mathml(re.sub(r"\|([^|]+)\|", r"\\left|\1\\right|", node.astext()), as_block=as_block)


def inline(translator, node):
    translator.body.append(mathml(node, False))
    raise nodes.SkipNode


def block(translator, node):
    translator.body.append(translator.starttag(node, "div", CLASS="math"))
    if node["number"]:
        translator.body.append(f'<span class="eqno">({get_node_equation_number(translator, node)})</span>')
    translator.body.append(mathml(node, True))
    translator.body.append("</div>\n")
    raise nodes.SkipNode


def setup(app):
    app.add_html_math_renderer("mathml", inline_renderers=(inline, None), block_renderers=(block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
