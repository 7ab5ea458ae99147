"""The examples in the docstrings are executed."""

import doctest
import importlib
import pkgutil

import pytest

import minquant

# A peer imports the library it measures at its top, and only the extras install that; __main__ runs when imported.
MODULES = ["minquant", *sorted(m.name for m in pkgutil.walk_packages(minquant.__path__, "minquant.")
                               if ".peer_" not in m.name and not m.name.endswith("__main__"))]


@pytest.mark.parametrize("name", MODULES)
def test_examples_print_what_the_docstring_says(name):
    result = doctest.testmod(importlib.import_module(name))
    assert result.failed == 0


def test_there_are_examples():
    finder = doctest.DocTestFinder(exclude_empty=True)
    tests = [t for n in MODULES for t in finder.find(importlib.import_module(n), n)]
    assert sum(bool(t.examples) for t in tests) >= 15
