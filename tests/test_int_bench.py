"""`python -m minquant.bench kernels`: what it measures is what it says."""

import json

import pytest

from minquant import isa, kernels
from minquant.bench import __main__ as bench
from minquant.bench import roofline, timing


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
    weight_only = [f"float32 x {bits}-bit codebook" for bits in (4, 2)]
    assert [(row["shape"], row["name"]) for row in facts["rows"]] == [
        (shape, name) for shape in ("2x8x4", "4x2x3x1") for name in names + weight_only]
    for row in facts["rows"]:
        products = {"2x8x4": 2 * 8 * 4, "4x2x3x1": 4 * 4 * 9 * 2 * 3}[row["shape"]]
        assert row["gmacs"] == pytest.approx(products / row["microseconds"] / 1e3)
    assert {row["what"] for row in facts["loops"]} >= {"depthwise 3x3", "add"}


def test_a_call_is_timed_beside_its_c_function_alone(quick, capsys):
    bench.main(["kernels", "--products", "", "--convolutions", "", "--repeats", "1", "--no-loops", "--json"])
    rows = json.loads(capsys.readouterr().out)["overheads"]
    assert {row["what"].split()[0] for row in rows} == ({"matmul", "conv2d"} if isa.compiled() else set())
    for row in rows:
        assert row["call_microseconds"] > row["c_microseconds"] > 0
        assert row["overhead_microseconds"] == pytest.approx(row["call_microseconds"] - row["c_microseconds"])


def test_the_limits_of_the_machine_are_measured_and_the_picture_is_written(quick, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(roofline, "READS", {"L2 read": 1 << 12})
    path = tmp_path / "roof.png"
    bench.main(["kernels", "--products", "2x8x4,1x16x8", "--convolutions", "", "--repeats", "1", "--bits", "8",
                "--no-peers", "--no-loops", "--plot", str(path), "--json"])
    facts = json.loads(capsys.readouterr().out)
    assert path.read_bytes()[:4] == b"\x89PNG"
    if facts["limits"]:
        assert set(facts["limits"]["products"]) <= {kernels.isa()}
        assert min(facts["limits"]["reads"].values()) > 0
    for row in facts["rows"]:
        assert row["macs_per_byte"] * row["bytes_moved"] == pytest.approx({"2x8x4": 64, "1x16x8": 128}[row["shape"]])
        if facts["limits"].get("products") and row["isa"]:
            peak = facts["limits"]["products"][row["isa"]] * facts["threads"]
            assert row["share_of_peak"] == pytest.approx(row["gmacs"] / peak)


def test_look_ups_are_measured_beside_the_products_of_an_instruction_set_that_has_them(quick, capsys, monkeypatch):
    if "avx2" not in kernels.info()["isa"]["available"]:
        return
    widths, matvec = [], kernels.matvec_lookup
    monkeypatch.setattr(kernels, "matvec_lookup",
                        lambda a, w: widths.append((a.max(), w.activation_bits)) or matvec(a, w))
    bench.main(["kernels", "--products", "1x16x8", "--convolutions", "", "--repeats", "1", "--bits", "8,2",
                "--activation-bits", "2", "--isa", "avx2", "--no-peers", "--no-loops", "--json"])
    names = [row["name"] for row in json.loads(capsys.readouterr().out)["rows"]]
    assert names[:3] == ["avx2 8-bit", "avx2 2-bit", "avx2 2-bit look-up"]
    assert set(widths) == {(3, 2)}


def test_a_shape_that_is_none_is_refused(quick, capsys):
    with pytest.raises(SystemExit):
        bench.main(["kernels", "--products", "2x8"])
    assert "'2x8' is not 3 positive integers" in capsys.readouterr().err
