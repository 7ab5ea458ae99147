"""Directives that make tables from what the repository holds, at build time.

    .. ablations:: cpq             the runs of a method in every folder of results/, and the commands
    .. results:: fashion_lenet5    all runs of one folder
    .. methods::                   every method: what it learns, bits, paper
    .. options:: cpq               the options of one method
    .. equations:: dgms            equation -> line -> test of one paper
    .. deviations:: dgms           what the docstring of a method's module says about sources and deviations
    .. verbs::                     python -m minquant.VERB
    .. moduledoc:: MODULE          the docstring of a module
    .. c-comment:: FILE            the comment of a C file that holds the text of the option :containing:
    .. isa-comments::              the first comment of the file of every instruction set
"""

import importlib
import inspect
import re

from docutils import nodes
from docstrings import converted
from docutils.parsers.rst import Directive
from readme_table import ROOT, comparison, read_rows
from sphinx.errors import ExtensionError
from sphinx.util.docutils import SphinxDirective

from minquant import papers
from minquant.__main__ import VERBS
from minquant.quantizers import METHODS

BASELINES = "minmax", "lsq"


def table(header, rows, widths=None):
    """A docutils table; a cell is text, with `code` in backticks."""
    group = nodes.tgroup(cols=len(header))
    group += [nodes.colspec(colwidth=width) for width in widths or [1] * len(header)]
    for part, lines in ((nodes.thead(), [header]), (nodes.tbody(), rows)):
        for line in lines:
            row = nodes.row()
            row += [nodes.entry("", paragraph(str(cell))) for cell in line]
            part += row
        group += part
    return nodes.table("", group)


def paragraph(text):
    """Text with `code` in backticks and arXiv numbers as links."""
    parts = []
    for part in filter(None, re.split(r"(`[^`]+`|arXiv:\d{4}\.\d{5})", text)):
        if part.startswith("`"):
            parts.append(nodes.literal("", part[1:-1]))
        elif part.startswith("arXiv:"):
            parts.append(nodes.reference("", part, refuri=f"https://arxiv.org/abs/{part.removeprefix('arXiv:')}"))
        else:
            parts.append(nodes.Text(part))
    return nodes.paragraph("", "", *parts)


class Ablations(Directive):
    """The runs of one method in every folder of results/, beside the baselines trained with it, and the command."""

    required_arguments = 1

    def run(self):
        made = []
        for path in sorted(ROOT.glob("results/*/summary.csv")):
            self.state.document.settings.env.note_dependency(str(path))
            rows = [row for row in read_rows(path) if method_of(row) in (self.arguments[0], *BASELINES)]
            if any(method_of(row) == self.arguments[0] for row in rows):
                made += [nodes.rubric("", "", nodes.literal("", f"results/{path.parent.name}")), *results_table(rows),
                         command(path.parent.name)]
        if not made:
            raise self.error(f"no folder in results/ has a run of {self.arguments[0]}")
        return made


class Results(Directive):
    """All runs of one folder of results/."""

    required_arguments = 1

    def run(self):
        path = ROOT / "results" / self.arguments[0] / "summary.csv"
        if not path.is_file():
            raise self.error(f"there is no {path.relative_to(ROOT)}")
        self.state.document.settings.env.note_dependency(str(path))
        return [*results_table(read_rows(path)), command(path.parent.name)]


def method_of(row):
    return row["variant"].split(":")[0]


def results_table(rows):
    """[a sentence, a table]: accuracy by variant and bits."""
    sentence, header, lines = comparison(rows)
    return [paragraph(sentence), table(header, lines, [3] + [2] * (len(header) - 1))]


def command(folder):
    """The command of a folder, from results/README.md."""
    text = (ROOT / "results" / "README.md").read_text(encoding="utf-8")
    found = re.search(rf"^\| `{re.escape(folder)}` \| (.*) \|$", text, re.MULTILINE)
    if not found:
        raise ExtensionError(f"results/README.md has no row for {folder}")
    words = re.sub(r"`([^`]*)`", r"\1", found[1])
    return nodes.literal_block(words, words, language="none", classes=["wrap"])


class Methods(Directive):
    def run(self):
        rows = [[f"`{name}`", method.learns, span(method.weight_bits), span(method.act_bits), method.paper]
                for name, method in METHODS.items()]
        return [table(["method", "learned", "weight bits", "activation bits", "paper"], rows, [2, 6, 2, 3, 5])]


class Options(Directive):
    required_arguments = 1

    def run(self):
        rows = [[f"`{name}={option.default}`", option.help] for name, option in
                METHODS[self.arguments[0]].options.items()]
        return [table(["`--set`", "what it does"], rows, [3, 8])]


class ModuleDoc(SphinxDirective):
    required_arguments = 1

    def run(self):
        text = inspect.getdoc(importlib.import_module(self.arguments[0]))
        return self.parse_text_to_nodes("\n".join(converted(without_titles(text).splitlines())))


def without_titles(text):
    """Underlined titles inside a docstring as plain lines that end in a full stop."""
    return re.sub(r"^(\S.*)\n-{3,}$", r"\1.\n", text, flags=re.MULTILINE)


class Deviations(SphinxDirective):
    required_arguments = 1

    def run(self):
        text = inspect.getdoc(importlib.import_module(f"minquant.quantizers.{self.arguments[0]}"))
        starts = [match.start() for match in re.finditer(r"^[^\n]*[Dd]eviations", text, re.MULTILINE)]
        if not starts:
            raise self.error(f"the docstring of minquant.quantizers.{self.arguments[0]} names no deviations")
        return self.parse_text_to_nodes("\n".join(converted(text[starts[0]:].splitlines())))


def span(bits):
    """'2 to 8', '1', with 'or float' where None is allowed."""
    numbers = [b for b in bits if b is not None]
    text = f"{min(numbers)} to {max(numbers)}" if min(numbers) < max(numbers) else str(numbers[0])
    return text + (" or float" if None in bits else "")


class Equations(Directive):
    required_arguments = 1

    def run(self):
        rows = [[e.number, e.says, f"`{e.where.removeprefix('minquant/')}`" if e.where else "",
                 f"`{e.test.split('::')[-1]}`" if e.test else e.excuse]
                for e in papers.equations() if e.paper == self.arguments[0]]
        if not rows:
            raise self.error(f"papers.csv has no equation of {self.arguments[0]}")
        return [table(["number", "what it says", "where", "test, or why there is none"], rows, [2, 6, 6, 7])]


class Verbs(Directive):
    def run(self):
        return [table(["`python -m minquant.`", "purpose"], [[f"`{v}`", p] for v, p in VERBS.items()], [2, 8])]


class CComment(Directive):
    required_arguments = 1
    option_spec = {"containing": str}

    def run(self):
        wanted = self.options["containing"]
        for comment in comments(ROOT / self.arguments[0]):
            if wanted in comment:
                return [nodes.literal_block(comment, comment, language="none")]
        raise self.error(f"{self.arguments[0]} has no comment with '{wanted}'")


class IsaComments(Directive):
    def run(self):
        made = []
        for path in sorted((ROOT / "minquant" / "_kernels").glob("gemm_*.c"), key=lambda p: "avx" not in p.name):
            if "int_isa isa" in path.read_text(encoding="utf-8"):
                text = comments(path)[0]
                made += [nodes.rubric("", "", nodes.literal("", path.name)),
                         nodes.literal_block(text, text, language="none")]
        return made


def comments(path):
    """The block comments of a C file, without stars."""
    found = re.findall(r"/\*(.*?)\*/", path.read_text(encoding="utf-8"), re.DOTALL)
    return [re.sub(r"\n \* ?", "\n", text).strip() for text in found]


DIRECTIVES = {"ablations": Ablations, "results": Results, "methods": Methods, "options": Options,
              "equations": Equations, "deviations": Deviations, "verbs": Verbs, "moduledoc": ModuleDoc,
              "c-comment": CComment, "isa-comments": IsaComments}


def setup(app):
    for name, directive in DIRECTIVES.items():
        app.add_directive(name, directive)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
