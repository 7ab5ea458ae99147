"""What the documentation is made of: docstrings become markup, the worked example keeps a quantizer's promises."""

import importlib.util
import re
from pathlib import Path

import numpy as np
import pytest

from minquant import check, data, models, training
from minquant.deploy import lower
from minquant.optim import Adam, parameter_groups
from minquant.quantize import calibrate, quantize
from minquant.quantizers import METHODS

DOCS = Path(__file__).parent.parent / "docs"


def imported(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


docstrings = imported(DOCS / "extensions" / "docstrings.py")
meanstep = imported(DOCS / "examples" / "meanstep.py")


def kinds(text):
    return [kind for kind, _ in docstrings.segments(text.splitlines())]


@pytest.mark.parametrize("text,expected", [
    ("One line.", ["text"]),
    ("One line.\nAnd more of it.\n\nAnother.", ["text", "text"]),
    ("x : (N, C) floats\n    in two lines\ny : the same", ["fields"]),
    ("1. First,\n   in two lines:\n   three.\n2. Second.", ["list"]),
    ("Deviations.\n- one\n  more\n- two\nAnd a remark.", ["text", "list", "text"]),
    ("The formula:\n\n    y = |x|\n\nEnds.", ["text", "code", "text"]),
    ("The formula:\n    y = |x|", ["text", "code"]),
    ("name        what it is\nroot        where it is", ["code"]),
    (">>> 1 + 1\n2", ["example"]),
])
def test_a_docstring_is_cut_by_the_shape_of_its_lines(text, expected):
    assert kinds(text) == expected


def test_nothing_of_a_docstring_is_lost_and_no_character_becomes_markup():
    text = "Sum of |w_i| and b_ over *all* i * j*k, see `x|y`; a\\b.\n\nx : `Layer` or *"
    lines = docstrings.converted(text.splitlines())
    assert lines[0] == r"Sum of \|w\_i\| and b\_ over *all* i \* j\*k, see ``x|y``; a\\b."
    assert lines[2:4] == ["``x``", r"    ``Layer`` or \*"]


def test_a_list_entry_keeps_its_continuation_lines():
    assert docstrings.converted(["1. first", "   line", "2. second"])[:2] == ["1. first line", "2. second"]


def test_every_page_is_reached_from_the_index():
    found, waiting = set(), ["index"]
    while waiting:
        page = waiting.pop()
        found.add(page)
        text = (DOCS / page).with_suffix(".rst").read_text(encoding="utf-8") if (DOCS / f"{page}.rst").exists() else ""
        for block in re.findall(r"\.\. toctree::\n(?:   :.*\n)*\n((?:   .*\n)+)", text):
            waiting += [str(Path(page).parent / name.strip()) for name in block.splitlines()]
        waiting = [name for name in waiting if not name.startswith("api/") and name not in found]
    assert found == {str(path.relative_to(DOCS).with_suffix("")) for path in [*DOCS.rglob("*.rst"), *DOCS.rglob("*.md")]
                     if path.parent.name != "api"}


def test_every_paper_has_a_page_with_its_equations_options_and_runs():
    for paper in ("dgms", "gdrq", "cpq", "qnet", "dq"):
        text = (DOCS / "papers" / f"{paper}.rst").read_text(encoding="utf-8")
        for directive in ("equations", "options", "ablations", "deviations"):
            assert f".. {directive}:: {paper}\n" in text


def test_every_method_is_in_the_table_that_helps_to_choose():
    text = (DOCS / "choose.rst").read_text(encoding="utf-8")
    named = set(re.findall(r"``([\w-]+)", text))
    assert set(METHODS) - named <= {"pact"}  # which is dorefa with learned activations


def test_commands_on_the_pages_name_methods_and_options_that_exist():
    for path in DOCS.rglob("*.rst"):
        for line in re.findall(r"python -m minquant\.train (.*)", path.read_text(encoding="utf-8")):
            method = METHODS[re.search(r"--method ([\w-]+)", line).group(1)]
            for key, value in re.findall(r"--set (\w+)=(\S+)", line):
                method.options[key].parse(key, value)


def test_the_example_has_the_gradient_it_claims_and_a_wrong_one_is_rejected():
    rng = np.random.default_rng(0)
    w = rng.standard_normal((5, 7))
    w[0] *= 9  # some are clipped
    quantizer = meanstep.MeanStepWeight(3)
    quantizer.init_from(w, rng)
    quantizer.freeze(w)
    check.gradients(quantizer, w, rng, surrogate=quantizer.surrogate)
    quantizer.backward = lambda dy, cache: (dy, {})
    with pytest.raises(check.GradientError):
        check.gradients(quantizer, w, rng, surrogate=quantizer.surrogate)


def test_the_example_stores_its_forward_trains_and_lowers(monkeypatch):
    monkeypatch.setitem(METHODS, "meanstep", meanstep.MeanStep)
    rng, digits = np.random.default_rng(0), data.load("digits", limit=400)
    model = quantize(models.mlp(digits.image_shape, 10, rng), "meanstep", 3, 4, rng=rng)
    images = digits.normalise(digits.train.images)
    calibrate(model, images, rng)
    weight = dict(model.named_layers())["fc1"]
    stored = weight.children["weight_quantizer"].encode(weight.params["weight"])
    np.testing.assert_array_equal(stored.decode(), weight.children["weight_quantizer"].forward(
        weight.params["weight"])[0])
    optimizer = Adam(model.named_params(), parameter_groups(model))
    losses = [training.step(model, optimizer, images, digits.train.labels, 3e-3, rng)[0] for _ in range(20)]
    assert losses[-1] < 0.5 * losses[0]
    program = lower(model, digits.image_shape, digits.normalise)
    assert check.bit_exact(model, program, digits.test.images, digits.normalise).images == len(digits.test)
