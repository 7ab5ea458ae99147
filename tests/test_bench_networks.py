"""`python -m minquant.bench networks`: the peers compute the same network, and the rows say what was measured."""

import json

import numpy as np
import onnxruntime
import pytest

from minquant import models
from minquant.bench import __main__ as bench
from minquant.bench import peer_networks, timing
from minquant.bench.networks import compared


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
    first = compared("lenet5", 1, 1, times)[0]
    assert (first["over_int8"], first["over_float32"]) == (2.0, 4.5)


@pytest.mark.parametrize("network", ["resnet20", "mobilenet_tiny", "squeezenet_tiny", "resnet18"])
def test_the_peers_graph_computes_the_network_and_its_int8_form_comes_near(network):
    rng = np.random.default_rng(0)
    model = models.build(network, (16, 16, 3), 10, rng)
    x = rng.normal(0, 1, (2, 16, 16, 3)).astype(np.float32)
    graph, nchw = peer_networks.graph(model, (16, 16, 3), 2), np.ascontiguousarray(x.transpose(0, 3, 1, 2))
    expected = model.forward(x)[0]
    [found] = onnxruntime.InferenceSession(graph.SerializeToString()).run(None, {"x": nchw})
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())
    [rounded] = peer_networks.contestants(graph, peer_networks.int8(graph, nchw), nchw, 1)["onnxruntime int8"]()
    assert 0 < np.abs(rounded - expected).max() < 0.2 * np.abs(expected).max()


@pytest.mark.parametrize("arguments,message", [
    (["--networks", "alexnet"], "--networks alexnet: known are mlp, lenet5"),
    (["--batches", "0"], "--batches 0: give positive integers")])
def test_what_cannot_be_measured_is_refused(quick, capsys, arguments, message):
    with pytest.raises(SystemExit):
        bench.main(["networks", *arguments])
    assert message in capsys.readouterr().err
