"""`python -m minquant.bench kernels`: what it measures is what it says."""

import json

import pytest

from minquant import kernels
from minquant.bench import __main__ as bench
from minquant.bench import timing


@pytest.fixture
def quick(monkeypatch):
    """Turns of one call."""
    monkeypatch.setattr(timing, "TURN_S", 0)
    monkeypatch.setattr(timing, "PAUSE_S", 0)


def test_every_shape_is_measured_at_every_width_and_beside_float32(quick, capsys):
    bench.main(["kernels", "--products", "2x8x4", "--convolutions", "4x2x3x1", "--repeats", "1",
                "--bits", "8,3", "--no-peers", "--json"])
    facts = json.loads(capsys.readouterr().out)
    names = [f"{kernels.isa()} 8-bit", f"{kernels.isa()} 3-bit", "numpy float32"]
    assert [(row["shape"], row["name"]) for row in facts["rows"]] == [
        (shape, name) for shape in ("2x8x4", "4x2x3x1") for name in names]
    for row in facts["rows"]:
        products = {"2x8x4": 2 * 8 * 4, "4x2x3x1": 4 * 4 * 9 * 2 * 3}[row["shape"]]
        assert row["gmacs"] == pytest.approx(products / row["microseconds"] / 1e3)
    assert {row["what"] for row in facts["loops"]} >= {"depthwise 3x3", "add"}


def test_a_shape_that_is_none_is_refused(quick, capsys):
    with pytest.raises(SystemExit):
        bench.main(["kernels", "--products", "2x8"])
    assert "'2x8' is not 3 positive integers" in capsys.readouterr().err
