"""The report: what it measures can be checked by hand, its page stands alone, and it makes the best of a broken run."""

import base64
import json
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pytest

import minquant
from minquant import data, models, summary
from minquant.nn import Linear, Sequential
from minquant.quantizers import METHODS
from minquant.quantizers.minmax import MinMaxActivation
from minquant.report import Found, activations, bypassed, describe, gather, layers, sensitivity, text_page
from minquant.report.__main__ import main
from minquant.report.measure import predictions
from minquant.train import main as train

FILES = {"report.html", "report.txt", "details.json"}
VOID = {"meta", "img", "br"}


@pytest.fixture(scope="module")
def digits():
    return data.load("digits", limit=200)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "a run"
    assert train(["--method", "minmax", "--model", "mlp", "--float-epochs", "2", "--epochs", "1", "--limit", "300",
                  "--override", "fc2=2", "--quiet", "--out", str(folder)]) == 0
    assert main([str(folder)]) == 0
    return folder


@pytest.fixture
def copied(finished, tmp_path):
    """A run folder to break, without the report's own files."""
    folder = tmp_path / "copy"
    folder.mkdir()
    for path in finished.iterdir():
        if path.is_file() and path.name not in FILES:
            (folder / path.name).write_bytes(path.read_bytes())
    return folder


def network(digits, method="minmax", bits=4, act_bits=4, **more):
    rng = np.random.default_rng(0)
    model = minquant.quantize(models.mlp(digits.image_shape, 10, rng), method, bits, act_bits, rng=rng, **more)
    minquant.calibrate(model, digits.normalise(digits.train.images[:64]), rng)
    return model


def described(folder):
    return describe(gather(folder), images=20)


def report(folder):
    assert main([str(folder)]) == 0
    assert_stands_alone((folder / "report.html").read_text())
    return json.loads((folder / "details.json").read_text())


class Page(HTMLParser):
    """Follows the tags; fails where one is closed that is not the innermost open one."""

    def __init__(self, text):
        super().__init__()
        self.open, self.seen, self.ids, self.links, self.images = [], [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.seen.append(tag)
        self.ids += [attributes["id"]] if "id" in attributes else []
        self.links += [attributes[key] for key in ("href", "src") if key in attributes]
        if tag == "img":
            self.images.append(attributes)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def assert_stands_alone(text):
    page = Page(text)
    assert text.startswith("<!DOCTYPE html>\n<html lang=") and 'charset="utf-8"' in text and "viewport" in text
    assert not {"script", "link", "iframe", "object"} & set(page.seen)
    assert len(page.ids) == len(set(page.ids))
    for target in page.links:
        assert target.startswith("data:image/png;base64,") or target.startswith("#") and target[1:] in page.ids, target
    for image in page.images:
        assert image["alt"]
        assert base64.b64decode(image["src"].split(",")[1], validate=True).startswith(b"\x89PNG")
    assert "url(" not in text and "@import" not in text
    return page


def test_the_page_is_balanced_has_no_script_and_needs_nothing_from_outside(finished):
    page = assert_stands_alone((finished / "report.html").read_text())
    assert {"cost", "error", "sensitivity", "curves", "histograms", "confusion", "mistakes",
            "configuration"} <= set(page.ids)


def test_page_text_and_data_say_the_same(finished):
    details = json.loads((finished / "details.json").read_text())
    html, text = (finished / "report.html").read_text(), (finished / "report.txt").read_text()
    accuracy = f"{details['test']['accuracy']:.2%}"
    assert accuracy in html and accuracy in text
    for row in details["layers"]:
        size = f"{row['bytes'] / 1024:.2f}"
        assert f"<td>{size}</td>" in html and size in text
        assert f"{details['sensitivity']['layers'][row['name']]['only_float']:.2%}" in text


def test_data_hold_no_value_that_json_does_not_have(finished):
    def refuse(word):
        raise AssertionError(word)

    json.loads((finished / "details.json").read_text(), parse_constant=refuse)


def test_the_report_leaves_what_training_wrote_alone(finished, copied):
    before = {path.name: path.read_bytes() for path in copied.iterdir()}
    assert main([str(copied)]) == 0
    after = {path.name: path.read_bytes() for path in copied.iterdir()}
    assert set(after) == set(before) | FILES and {name: after[name] for name in before} == before


def test_names_with_markup_are_escaped(finished, tmp_path):
    folder = tmp_path / "<b>&run"
    folder.mkdir()
    (folder / "report.json").write_bytes((finished / "report.json").read_bytes())
    assert main([str(folder)]) == 0
    text = (folder / "report.html").read_text()
    assert_stands_alone(text)
    assert "<h1>&lt;b&gt;&amp;run</h1>" in text


def test_cost_is_that_of_the_summary_and_totals_add_up(digits):
    model = network(digits, overrides={"fc2": 2})
    rows, totals = layers(model, digits.image_shape)
    expected, expected_totals = summary.summarise(model, digits.image_shape)
    assert [row["bytes"] for row in rows] == [row.bytes for row in expected]
    assert [row["bit_operations"] for row in rows] == [64 * 256 * 4 * 8, 256 * 128 * 2 * 4, 128 * 10 * 4 * 4]
    assert totals["bit_operations"] == sum(row["bit_operations"] for row in rows)
    weights, norms, bias = 64 * 256 + 256 * 128 + 1280, 4 * (256 + 128), 10
    assert totals["int8_bytes"] == weights + 3 * 4 + 4 * (norms + bias)
    assert totals["float32_bytes"] == expected_totals["float32_bytes"] == 4 * (weights + norms + bias)


def test_the_error_of_the_weights_is_signal_over_noise(digits):
    model = network(digits)
    row = layers(model, digits.image_shape)[0][1]
    weight = dict(model.named_layers())["fc2"].params["weight"].astype(np.float64)
    step = np.abs(weight).max() / 7
    noise = weight - np.rint(weight / step) * step
    assert row["sqnr_db"] == pytest.approx(10 * np.log10((weight ** 2).sum() / (noise ** 2).sum()), abs=1e-4)
    assert sum(row["grid"]["counts"]) == weight.size


def test_one_more_bit_is_six_decibels(digits):
    found = [layers(network(digits, bits=bits), digits.image_shape)[0][1]["sqnr_db"] for bits in (5, 6, 7, 8)]
    assert np.allclose(np.diff(found), 6.02, atol=0.6)


def test_range_and_clipping_share_of_an_activation_are_counted():
    quantizer = MinMaxActivation(2)
    quantizer.state["high"][...], quantizer.state["ready"][...] = 3.0, True
    x = np.array([[0.0, 1.0, 2.6, 3.0, 3.1, 9.0, -1.0, 0.2]], np.float32)
    [row] = activations(Sequential(q=quantizer), x)
    assert (row["smallest"], row["largest"], row["low"], row["high"], row["step"]) == (-1, 9, 0, 3, 1)
    assert row["clipped"] == 3 / 8 and row["zeros"] == 3 / 8 and (row["levels"], row["possible_levels"]) == (3, 4)


def test_an_input_that_sets_its_own_range_is_not_clipped(digits):
    rows = activations(network(digits), digits.normalise(digits.train.images[:64]))
    assert rows[0]["name"] == "input_quantizer" and rows[0]["clipped"] == 0


def test_bypassed_quantizers_are_identities_and_come_back_after_an_error(digits):
    model, x = network(digits, bits=2), digits.normalise(digits.test.images[:8])
    names = [name for name, _ in minquant.quantizers.base.quantizers(model)]
    before = model.forward(x)[0]
    plain = models.mlp(digits.image_shape, 10, np.random.default_rng(0))
    with pytest.raises(KeyboardInterrupt), bypassed(model, names):
        np.testing.assert_array_equal(model.forward(x)[0], plain.forward(x)[0])
        raise KeyboardInterrupt
    np.testing.assert_array_equal(model.forward(x)[0], before)
    with pytest.raises(ValueError, match="'fc1' is no quantizer of this model"), bypassed(model, ["fc1"]):
        pass


def test_sensitivity_finds_the_one_layer_that_was_spoiled(finished):
    dataset = data.load("digits", limit=300)
    model = minquant.runs.load_run(finished, dataset, "float.npz")[0]
    rng = np.random.default_rng(0)
    model = minquant.quantize(model, "minmax", 8, 8, rng=rng, overrides={"fc2": 1})
    dict(model.named_layers())["fc2"].params["weight"][:, ::2] *= -1  # 1 bit cannot express that half of them are tiny
    dict(model.named_layers())["fc2"].params["weight"][:, ::2] *= 1e-3
    minquant.calibrate(model, dataset.normalise(dataset.train.images), rng)
    found = sensitivity(model, dataset.train, dataset)
    only, without = ({name: row[key] for name, row in found["layers"].items()}
                     for key in ("only_quantized", "only_float"))
    assert min(only, key=only.get) == "fc2" and max(without, key=without.get) == "fc2"
    assert only["fc2"] < min(only["fc1"], only["fc3"]) and without["fc2"] > max(without["fc1"], without["fc3"])


def test_sensitivity_of_a_float_network_is_none(digits):
    assert sensitivity(models.mlp(digits.image_shape, 10, np.random.default_rng(0)), digits.test, digits) is None


def test_confusion_and_worst_mistakes_are_those_of_the_logits():
    model = Sequential(fc=Linear(3, 3, np.random.default_rng(0)))
    model.children["fc"].params["weight"][...] = np.eye(3)
    images = np.array([[9, 0, 0], [0, 5, 0], [1, 3, 0], [0, 0, 8]], np.uint8)
    split = data.Split(images, np.array([0, 0, 0, 1]))
    found = predictions(model, split, SimpleNamespace(normalise=np.float32, classes="abc"))
    assert found["confusion"] == [[1, 2, 0], [0, 0, 1], [0, 0, 0]] and found["accuracy"] == 0.25
    assert [m["image"] for m in found["mistakes"]] == [3, 1, 2]
    assert found["mistakes"][0]["loss"] == pytest.approx(np.log(2 + np.exp(8)))
    assert found["mistakes"][0]["probability"] == pytest.approx(np.exp(8) / (2 + np.exp(8)))


@pytest.mark.parametrize("name", METHODS)
def test_every_method_can_be_reported(name, digits, tmp_path):
    bits = 2 if 2 in METHODS[name].weight_bits else METHODS[name].weight_bits[0]
    act_bits = 3 if 3 in METHODS[name].act_bits else None
    model = network(digits, name, bits, act_bits)
    found = Found(tmp_path, dataset=digits, model=model, checkpoint="best.npz")
    details = describe(found, images=20)
    assert details["missing"] == [] and len(details["sensitivity"]["layers"]) == 3
    assert len(details["activations"]) == (0 if act_bits is None else 3)
    assert "fc2" in text_page(details)


def test_a_run_with_float_activations_reports_its_weights(digits, tmp_path):
    found = Found(tmp_path, dataset=digits, model=network(digits, "lsq", 4, None), checkpoint="best.npz")
    details = describe(found, images=20)
    assert details["activations"] == [] and details["layers"][0]["act_bits"] == 32


def test_an_unfinished_run_is_drawn_from_its_newest_epoch(copied):
    (copied / "report.json").unlink()
    (copied / "best.npz").unlink()
    details = report(copied)
    assert details["checkpoint"] == "last.npz" and details["test"]["accuracy"] > 0.1
    assert any("has not finished" in line and "--resume" in line for line in details["missing"])
    assert "Missing or doubtful" in (copied / "report.html").read_text()


def test_a_damaged_checkpoint_is_named_and_the_next_one_drawn(copied):
    (copied / "best.npz").write_bytes((copied / "best.npz").read_bytes()[:500])
    (copied / "log.csv").write_text("stage,epoch\nfloat,1\n")
    details = described(copied)
    assert details["checkpoint"] == "last.npz" and len(details["curves"]) == 3
    assert any("best.npz" in line and "damaged" in line for line in details["missing"])
    assert any("log.csv" in line and "from last.npz" in line for line in details["missing"])


def test_without_the_data_set_the_stored_network_is_still_described(copied, monkeypatch):
    def missing(*args, **more):
        raise data.DataNotFoundError("digits is in none of the folders")

    monkeypatch.setattr(data, "load", missing)
    details = report(copied)
    assert details["test"] is None and details["layers"][0]["sqnr_db"] > 0
    assert any("digits is in none of the folders" in line for line in details["missing"])


def test_a_result_alone_gives_its_table(copied):
    for path in copied.iterdir():
        if path.name != "report.json":
            path.unlink()
    assert [row["name"] for row in report(copied)["layers"]] == ["fc1", "fc2", "fc3"]


@pytest.mark.parametrize("result", ["{", "[1, 2]", '{"accuracy": "high"}', '{"accuracy": 0.5, "layers": 7}'])
def test_a_foreign_result_is_said_and_passed_over(copied, result):
    (copied / "report.json").write_text(result)
    for path in copied.glob("*.npz"):
        path.unlink()
    details = described(copied)
    assert details["layers"] == []
    assert any(line.startswith("report.json is not the result") for line in details["missing"])


def test_a_result_of_another_training_is_doubted(copied):
    result = json.loads((copied / "report.json").read_text())
    (copied / "report.json").write_text(json.dumps({**result, "accuracy": result["accuracy"] - 0.1}))
    assert any("are not of one training" in line for line in described(copied)["missing"])


def test_a_network_that_is_not_finite_is_passed_over(copied):
    with np.load(copied / "best.npz") as archive:
        parts = {key: archive[key] for key in archive.files}
    parts["params/fc2.weight"][0] = np.nan
    np.savez(copied / "best.npz", **parts)
    details = described(copied)
    assert details["checkpoint"] == "last.npz"
    assert "best.npz: 'fc2.weight' holds NaN or infinity" in details["missing"]


def test_a_folder_that_is_no_run_is_refused_and_left_as_it_was(tmp_path, capsys):
    (tmp_path / "notes.txt").write_text("hello")
    assert main([str(tmp_path)]) == 1
    assert "not a run folder" in capsys.readouterr().err and len(list(tmp_path.iterdir())) == 1
    assert main([str(tmp_path / "absent")]) == 1 and "there is no folder" in capsys.readouterr().err


def test_the_report_can_go_elsewhere_and_count_fewer_images(copied, tmp_path):
    out = tmp_path / "elsewhere"
    assert main([str(copied), "--out", str(out), "--images", "7", "--checkpoint", "float.npz"]) == 0
    details = json.loads((out / "details.json").read_text())
    assert {path.name for path in out.iterdir()} == FILES and not (copied / "report.html").exists()
    assert details["checkpoint"] == "float.npz" and details["sensitivity"] is None
