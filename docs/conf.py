"""The documentation:  pip install -e ".[docs]" && python -m sphinx -W -b html docs build/docs

Formulas become MathML, which browsers draw themselves: no script, no font and no image is fetched, and a page works
from a disk. API pages are made from the docstrings, tables of results from results/, both at build time.
"""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE / "extensions"), str(HERE.parent / "tools"), str(HERE.parent)]

import minquant  # noqa: E402  (of this checkout)

project, author, version = "minquant", "the minquant authors", minquant.__version__
copyright = "the minquant authors, MIT licence"
extensions = ["sphinx.ext.autodoc", "myst_parser", "mathml", "docstrings", "api_pages", "tables"]
exclude_patterns = ["extensions", "examples"]
html_theme = "furo"
html_title = f"minquant {version}"
html_math_renderer = "mathml"
html_static_path = ["static"]
html_css_files = ["minquant.css"]
html_copy_source = html_show_sphinx = False
autodoc_member_order = "bysource"
autodoc_mock_imports = ["onnx"]  # of the extra `export`; its modules are described without it
autodoc_preserve_defaults = True
autodoc_default_options = {"members": True, "show-inheritance": True}
python_display_short_literal_types = True
maximum_signature_line_length = 100
highlight_language = "python"
