"""Every equation of every paper is implemented where the table says and held by the test it names."""

import ast
from pathlib import Path

import pytest

from minquant.papers import TITLES, equations, main

ROOT = Path(__file__).parent.parent
ALL = equations()


def names(path):
    """Qualified names of all functions, classes, methods and assigned names of a source file."""
    found = set()

    def walk(node, prefix):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, (ast.FunctionDef, ast.ClassDef)):
                found.add(prefix + child.name)
                walk(child, prefix + child.name + ".")
            elif isinstance(child, (ast.Assign, ast.AnnAssign)):
                targets = child.targets if isinstance(child, ast.Assign) else [child.target]
                found.update(prefix + t.id for t in targets if isinstance(t, ast.Name))

    walk(ast.parse((ROOT / path).read_text(encoding="utf-8")), "")
    return found


SOURCES = {path: names(path) for e in ALL for path in (e.where.split(":")[0], e.test.split("::")[0]) if path}


@pytest.mark.parametrize("paper", TITLES)
def test_every_paper_has_its_equations_listed(paper):
    rows = [e for e in ALL if e.paper == paper]
    assert len(rows) >= 15 and [e.item for e in rows] == list(range(1, len(rows) + 1))


@pytest.mark.parametrize("equation", ALL, ids=lambda e: f"{e.paper}-{e.item}")
def test_an_equation_is_covered_by_an_existing_test_or_excused_in_writing(equation):
    if equation.test:
        path, _, test = equation.test.partition("::")
        assert test.split("[")[0] in SOURCES[path], f"{path} has no test {test}"
    else:
        assert len(equation.excuse) > 10, "neither a test nor a reason"


@pytest.mark.parametrize("equation", [e for e in ALL if e.where], ids=lambda e: f"{e.paper}-{e.item}")
def test_an_equation_is_implemented_where_the_table_says(equation):
    path, _, name = equation.where.partition(":")
    assert name in SOURCES[path] or ".".join(name.split(".")[-1:]) in {n.split(".")[-1] for n in SOURCES[path]}


def test_what_is_implemented_nowhere_is_an_identity_that_a_test_shows_or_is_excused():
    assert all(e.where or e.test or e.excuse for e in ALL)


def test_the_table_is_printed_for_one_paper_and_summed_up_for_all(capsys):
    assert main([]) == 0
    summary = capsys.readouterr().out
    assert all(f"{paper}: " in summary for paper in TITLES)
    assert main(["cpq"]) == 0
    assert "estimators/multiclass.py:" in capsys.readouterr().out


def test_an_unknown_paper_names_the_nearest(capsys):
    assert main(["cpk"]) == 2 and "nearest: cpq" in capsys.readouterr().err
