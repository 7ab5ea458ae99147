"""One page that says where the accuracy and the bytes of a run went:  python -m minquant.report RUN

    report.html    the page: one file, no network, no script; reads on a phone and in print
    details.json   the same as data (report.json, which training writes, stays the short result)
    report.txt     the same as text

`gather` reads the run folder and takes what is there, `describe` measures, `page` and `text` write it down.
"""

from .describe import describe
from .gather import Found, gather
from .measure import activations, layers
from .page import html_page
from .sensitivity import bypassed, sensitivity
from .text import text_page

__all__ = ["Found", "activations", "bypassed", "describe", "gather", "html_page", "layers", "sensitivity", "text_page"]
