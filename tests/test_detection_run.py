"""A detector goes the whole way that a classifier goes: train, resume, evaluate, export, compare, plot."""

import csv
import json

import numpy as np
import pytest

from minquant import compare, training
from minquant.evaluate import main as evaluate_main
from minquant.export import main as export_main
from minquant.plot import main as plot_main
from minquant.report.__main__ import main as report_main
from minquant.train import main
from tests.test_run import assert_equal_arrays

QUICK = ["--task", "detect", "--method", "minmax", "--float-epochs", "1", "--epochs", "1", "--limit", "40",
         "--batch-size", "8", "--augment", "crop4", "--quiet"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("detect") / "run"
    assert main([*QUICK, "--out", str(folder)]) == 0
    return folder


def test_a_run_leaves_the_files_of_every_run_and_the_pictures_of_a_detector(finished):
    names = {str(p.relative_to(finished)) for p in finished.rglob("*") if p.is_file()}
    assert {"config.toml", "log.csv", "last.npz", "best.npz", "float.npz", "report.json", "plots/curves.png",
            "plots/weights.png", "plots/bits.png", "plots/scenes.png", "plots/precision_recall.png"} <= names


def test_the_report_names_its_metric_and_measures_precision_as_voc_and_coco_do(finished):
    report = json.loads((finished / "report.json").read_text())
    measured = report["detection"]
    assert report["metric"] == "mAP@0.5" and report["accuracy"] == measured["map50"]
    assert set(measured) == {"map50", "map50_11", "map", "ap50"} and len(measured["ap50"]) == 10
    assert 0 <= measured["map"] <= measured["map50"] <= 1
    assert "task = \"detect\"" in (finished / "config.toml").read_text()


def test_a_resumed_run_equals_the_uninterrupted_one_bit_for_bit(finished, tmp_path, monkeypatch):
    folder, done, real = tmp_path / "run", [], training.train_epoch

    def interrupted(*args, **kwargs):
        if done:
            raise KeyboardInterrupt
        done.append(1)
        return real(*args, **kwargs)

    monkeypatch.setattr("minquant.run.train_epoch", interrupted)
    assert main([*QUICK, "--out", str(folder)]) == 130
    monkeypatch.undo()
    assert main(["--resume", str(folder), "--quiet"]) == 0
    for name in ("last.npz", "best.npz", "float.npz"):
        assert_equal_arrays(finished / name, folder / name)
    assert (folder / "report.json").read_text() == (finished / "report.json").read_text()


def test_evaluate_gives_what_the_run_reported(finished, capsys):
    assert evaluate_main([str(finished), "--json"]) == 0
    result, report = json.loads(capsys.readouterr().out), json.loads((finished / "report.json").read_text())
    assert all(result[key] == report[key] for key in ("accuracy", "loss", "metric", "detection"))
    assert evaluate_main([str(finished)]) == 0
    assert "test mAP@0.5" in capsys.readouterr().out


def test_the_exported_file_is_checked_and_measured(finished, capsys, monkeypatch):
    assert export_main([str(finished), "--to", "mqz", "--check", "--overwrite", "--json"]) == 0
    check = json.loads(capsys.readouterr().out)["check"]
    assert check["images"] == 40 and check["mismatches"] == 0
    monkeypatch.setattr("minquant.data.loading.TEST_SCENES", 40)
    monkeypatch.setattr("minquant.data.loading.TRAINING_SCENES", 10)
    assert evaluate_main([str(finished / "model.mqz"), "--json"]) == 0
    result, report = json.loads(capsys.readouterr().out), json.loads((finished / "report.json").read_text())
    assert result["metric"] == "mAP@0.5" and result["accuracy"] == pytest.approx(report["accuracy"], abs=1e-3)


def test_the_pictures_can_be_drawn_again(finished, tmp_path):
    assert plot_main([str(finished), "--out", str(tmp_path)]) == 0
    for name in ("curves", "scenes", "precision_recall"):
        assert (tmp_path / f"{name}.png").read_bytes() == (finished / "plots" / f"{name}.png").read_bytes()


def test_the_report_shows_boxes_and_the_precision_of_every_class(finished, tmp_path, capsys):
    assert report_main([str(finished), "--out", str(tmp_path / "report"), "--images", "8"]) == 0
    told = capsys.readouterr().out
    assert "quantized mAP@0.5" in told and "mean over IoU .5 : .95" in told and "confusion" not in told
    details = json.loads((tmp_path / "report" / "details.json").read_text())
    assert details["test"]["detection"] == json.loads((finished / "report.json").read_text())["detection"]
    page = next((tmp_path / "report").glob("*.html")).read_text()
    assert "What is found" in page and "confusion\"" not in page and "mAP@0.5" in page


def test_compare_puts_detectors_side_by_side(tmp_path):
    flags = ["--task", "detect", "--methods", "minmax", "--bits", "4", "--float-epochs", "1", "--epochs", "1",
             "--limit", "20", "--jobs", "1", "--quiet", "--runs", str(tmp_path)]
    assert compare.main(flags) == 0
    rows = list(csv.DictReader(open(tmp_path / "summary.csv")))
    assert [row["variant"] for row in rows] == ["minmax"] and {row["metric"] for row in rows} == {"mAP@0.5"}
    assert "| method | bits | mAP@0.5 (lowest .. highest)" in (tmp_path / "table.md").read_text()


@pytest.mark.parametrize("flags,message", [
    (["--task", "detect", "--data", "digits"], "data set 'digits' is not for --task detect; that takes digit-scenes"),
    (["--data", "digit-scenes"], "data set 'digit-scenes' is not for --task classify"),
    (["--task", "detect", "--model", "lenet5"], "there is no model 'lenet5'; nearest:"),
    (["--model", "vgg_detector"], "there is no model 'vgg_detector'"),
    (["--task", "segment"], "task='segment' does not work; it takes classify, detect"),
    (["--task", "detect", "--augment", "crop4,spin"], "unknown operation 'spin'"),
    (["--task", "detect", "--data", "voc"], "name the folder by --data-root"),
])
def test_what_does_not_go_together_is_refused(flags, message, tmp_path, capsys):
    assert main([*flags, "--out", str(tmp_path / "run")]) == 2
    assert message in capsys.readouterr().err and not (tmp_path / "run").exists()


def test_a_diverging_detector_names_epoch_and_step(tmp_path, capsys):
    assert main([*QUICK, "--float-lr", "1e20", "--out", str(tmp_path / "run")]) == 1
    assert "float epoch 1, step" in capsys.readouterr().err


def test_a_training_set_of_voc_folders_trains(tmp_path, capsys):
    from PIL import Image
    for name in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (tmp_path / name).mkdir(parents=True)
    rng, names = np.random.default_rng(0), [f"image{i}" for i in range(12)]
    for name in names:
        x, y = rng.integers(1, 40, 2)
        image = np.zeros((80, 80, 3), np.uint8)
        image[y - 1:y + 29, x - 1:x + 29] = 255
        Image.fromarray(image).save(tmp_path / "JPEGImages" / f"{name}.jpg")
        (tmp_path / "Annotations" / f"{name}.xml").write_text(
            f"<annotation><object><name>square</name><bndbox><xmin>{x}</xmin><ymin>{y}</ymin><xmax>{x + 29}</xmax>"
            f"<ymax>{y + 29}</ymax></bndbox></object></annotation>")
    (tmp_path / "ImageSets/Main/train.txt").write_text("\n".join(names[:9]))
    (tmp_path / "ImageSets/Main/val.txt").write_text("\n".join(names[9:]))
    flags = ["--task", "detect", "--data", "voc", "--data-root", str(tmp_path), "--method", "float",
             "--float-epochs", "1", "--batch-size", "4", "--json", "--quiet", "--out", str(tmp_path / "run")]
    assert main(flags) == 0
    assert list(json.loads(capsys.readouterr().out)["detection"]["ap50"]) == ["square"]
