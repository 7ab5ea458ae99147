"""`python -m minquant.bench networks`: the peers compute the same network, and the rows say what was measured."""

import json
import sys

import numpy as np
import onnxruntime
import pytest

from minquant import models, nn
from minquant.bench import __main__ as bench
from minquant.bench import networks, peer_onnx_networks, timing
from minquant.bench.folding import folded


NETWORKS = (*models.MODELS, "branches")


def branches(rng):
    """One branch is the input itself, whose range is not that of both."""
    conv = nn.Conv2d(8, 4, 1, rng)
    conv.params["bias"][...] = (20, 7, -7, 7)
    return nn.Sequential(
        conv=nn.Conv2d(3, 8, 3, rng, padding=1), both=nn.Concat(itself=nn.Sequential(), conv=conv),
        pool=nn.GlobalAvgPool(), fc=nn.Linear(12, 10, rng))


@pytest.fixture
def quick(monkeypatch):
    """Turns of one call."""
    monkeypatch.setattr(timing, "TURN_S", 0)
    monkeypatch.setattr(timing, "PAUSE_S", 0)


def test_every_network_is_measured_at_every_width_batch_and_number_of_threads(quick, capsys):
    bench.main(["networks", "--networks", "lenet5", "--bits", "8,2", "--batches", "1,3", "--num-threads", "1,2",
                "--repeats", "1", "--no-peers", "--json"])
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [(r["name"], r["batch"], r["threads"]) for r in rows] == [
        (f"minquant {bits}-bit", batch, threads) for batch in (1, 3) for threads in (1, 2) for bits in (8, 2)]
    for row in rows:
        assert row["images_per_s"] == pytest.approx(1e3 * row["batch"] / row["ms"]) and row["over_int8"] is None


def test_ratios_are_to_the_best_peer_of_each_width():
    times = {name: {"median": ms, "fastest": ms} for name, ms in (
        ("minquant 4-bit", 2.0), ("a int8", 6.0), ("b int8", 4.0), ("a float32", 9.0), ("b float32", 10.0))}
    first = networks.compared("lenet5", 1, 1, times)[0]
    assert (first["over_int8"], first["over_float32"]) == (2.0, 4.5)


@pytest.fixture(scope="module")
def small():
    """{name: (folded network, images, logits)} of every network, with batch norms as after training."""
    found = {}
    for name in NETWORKS:
        rng = np.random.default_rng(0)
        model = branches(rng) if name == "branches" else models.build(name, (16, 16, 3), 10, rng)
        for _, layer in model.named_layers():
            if isinstance(layer, nn.BatchNorm):
                for values in (*layer.params.values(), *layer.state.values()):
                    values[...] = rng.uniform(0.5, 1.5, values.shape)
        x = rng.normal(0, 1, (2, 16, 16, 3)).astype(np.float32)
        found[name] = folded(model), x, model.forward(x)[0]
    return found


@pytest.mark.parametrize("network", NETWORKS)
def test_folding_batch_norms_changes_no_logit(small, network):
    model, x, expected = small[network]
    assert not any(isinstance(layer, nn.BatchNorm) for _, layer in model.named_layers())
    np.testing.assert_allclose(model.forward(x)[0], expected, atol=1e-5 * np.abs(expected).max())


def test_a_batch_norm_that_cannot_be_folded_is_named():
    with pytest.raises(ValueError, match="batch norm 'bn1' follows no convolution or linear layer"):
        folded(nn.Sequential(relu1=nn.ReLU(), bn1=nn.BatchNorm(3)))


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("peer", networks.installed(), ids=lambda peer: peer.__name__.split("_")[1])
def test_a_peer_computes_the_network_and_its_int8_form_comes_near(quick, small, peer, network):
    model, x, expected = small[network]
    calls = peer.contestants(model, x, threads=1)
    assert {name.split()[-1] for name in calls} == {"float32", "int8"}
    networks.check(calls, expected)
    for name, call in calls.items():
        error = np.abs(np.asarray(call()) - expected).max() / np.abs(expected).max()
        assert error < 1e-5 if name.endswith("float32") else 1e-4 < error < 0.1


def test_a_peer_that_computes_another_network_is_refused():
    expected = np.array([[1.0, -2.0], [0.5, 0.0]])
    networks.check({"a float32": lambda: expected + 1e-3, "a int8": lambda: expected + 0.3}, expected)
    for call in ({"a float32": lambda: expected + 3e-3}, {"a int8": lambda: expected[:, ::-1]},
                 {"a int8": lambda: expected * np.nan}):
        with pytest.raises(ValueError, match="the logits of a (float32|int8) are off by .*: the networks differ"):
            networks.check(call, expected)


def test_a_peer_that_is_not_installed_takes_no_other_with_it(monkeypatch):
    before = networks.installed()
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.delitem(sys.modules, peer_onnx_networks.__name__)
    assert networks.installed() == [peer for peer in before if peer is not peer_onnx_networks]


def test_litert_is_refused_where_a_part_stays_outside_xnnpack(small, monkeypatch):
    litert = pytest.importorskip("minquant.bench.peer_litert_networks")
    model, x, _ = small["resnet20"]

    def subsample(self, x, stride):
        return self.emit("MAX_POOL_2D", [x], x.values[:, ::stride, ::stride], coding=x.coding, filterHeight=1,
                         filterWidth=1, strideH=stride, strideW=stride)

    monkeypatch.setattr(litert.Network, "subsample", subsample)
    with pytest.raises(ValueError, match="LiteRT does not compute the whole network in XNNPACK"):
        litert.contestants(model, x, threads=1)


def test_the_table_names_the_peers_and_their_versions(quick, capsys):
    bench.main(["networks", "--networks", "lenet5", "--bits", "4", "--batches", "1", "--num-threads", "1",
                "--repeats", "1"])
    heading, rows = capsys.readouterr().out.split("\n", 2)[1:]
    assert heading.startswith(f"peers: onnxruntime {onnxruntime.__version__}")
    for engine in heading.removeprefix("peers: ").split(", "):
        assert f"{engine.split()[0]} float32" in rows and f"{engine.split()[0]} int8" in rows


@pytest.mark.parametrize("arguments,message", [
    (["--networks", "alexnet"], "--networks alexnet: known are mlp, lenet5"),
    (["--batches", "0"], "--batches 0: give positive integers")])
def test_what_cannot_be_measured_is_refused(quick, capsys, arguments, message):
    with pytest.raises(SystemExit):
        bench.main(["networks", *arguments])
    assert message in capsys.readouterr().err
