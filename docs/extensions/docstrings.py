"""Docstrings as they are written here, into reStructuredText.

They are plain text for a reader in an editor: paragraphs, `code` in single backticks, lists of "name : meaning",
numbered lists, aligned formulas, examples. Neither numpydoc nor napoleon fits (there are no section headings), and
raw they would be full of false markup (|w|, b_i, *). So every line is recognised by its shape:

    >>> ...                    an example, as it is
    1. text  or  - text        a list; indented lines go on with the entry
    name : text                a list of fields, likewise
    indented, or with columns  preformatted: formulas, tables, diagrams
    anything else              a paragraph
"""

import re
import textwrap

FIELD = re.compile(r"(?P<names>[\w`'\"\[\](){}., /=*-]{1,40}?)\s+:\s+(?P<text>\S.*)")
ITEM = re.compile(r"(\d+\.|-)\s+\S")
COLUMNS = re.compile(r"\S{1,24}( \S+){0,2} {2,}\S|.*\S {3,}\S")  # a word or a few, then a gap; or a gap anywhere


def segments(lines):
    """[(kind, lines)] of a docstring, kind one of 'example', 'list', 'fields', 'code', 'text'."""
    found, kind = [], None
    for line in lines:
        if not line.strip():
            kind = None
            continue
        follows = following(line, kind, found)
        if follows != kind or kind is None:
            found.append((follows, []))
        kind = follows
        found[-1][1].append(line)
    return found


def following(line, kind, found):
    """The kind of a line, given the kind of the line before (None behind an empty one)."""
    if line.lstrip().startswith(">>>") or kind == "example":
        return "example"
    if line.startswith("  "):
        if kind in ("list", "fields", "code"):
            return kind
        return "text" if kind == "text" and not found[-1][1][-1].endswith((":", "|")) else "code"
    if ITEM.match(line):
        return "list"
    if kind == "code":
        return "text" if COLUMNS.match(line) is None and found[-1][1][-1].startswith(" ") else "code"
    if FIELD.fullmatch(line):
        return "fields"
    return "code" if COLUMNS.match(line) else "text"


def marked_up(text):
    """A paragraph with nothing but `code` and *emphasis* of words as markup."""
    parts = re.split(r"(`[^`]+`|(?<![\w*])\*[A-Za-z][\w -]*[A-Za-z]\*(?![\w*]))", text)
    marked = []
    for i, (part, after) in enumerate(zip(parts, [*parts[1:], ""])):
        if i % 2 == 0:
            marked.append(re.sub(r"([\\*|_`])", r"\\\1", part))
        else:
            marked.append(part if part.startswith("*") else f"``{part[1:-1].strip()}``")
            marked.append("\\ " if after[:1].isalnum() else "")
    return "".join(marked)


def converted(lines):
    """The lines of a docstring as reStructuredText."""
    out = []
    for kind, segment in segments(lines):
        if kind == "example":
            out += textwrap.dedent("\n".join(segment)).split("\n")
        elif kind == "code":
            out += [".. code-block:: none", "",
                    *("    " + line for line in textwrap.dedent("\n".join(segment)).split("\n"))]
        elif kind == "text":
            out.append(marked_up(" ".join(line.strip() for line in segment)))
        else:
            out += entries(segment, kind)
        out.append("")
    return out


def entries(segment, kind):
    """A list or a list of fields: every line that is not indented begins an entry, the others continue it."""
    joined = []
    for line in segment:
        if line.startswith("  "):
            joined[-1] += " " + line.strip()
        else:
            joined.append(line)
    if kind == "list":
        return [re.sub(r"^(\d+\.|-)\s+(.*)", lambda m: f"{m[1]} {marked_up(m[2])}", entry) for entry in joined]
    lines = []
    for entry in joined:
        field = FIELD.fullmatch(entry)
        lines += [f"``{field['names'].replace('`', '').strip()}``", f"    {marked_up(field['text'])}"]
    return lines


def setup(app):
    app.connect("autodoc-process-docstring",
                lambda app, what, name, thing, options, lines: lines.__setitem__(slice(None), converted(lines)))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
