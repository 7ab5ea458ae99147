"""A run folder: what it holds, that it survives interruption, and that a resumed run is the uninterrupted one."""

import csv
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from minquant import data, runs, training
from minquant.config import Config
from minquant.evaluate import main as evaluate_main
from minquant.progress import Progress
from minquant.run import Run
from minquant.train import main

QUICK = ["--method", "minmax", "--model", "mlp", "--float-epochs", "2", "--epochs", "3", "--limit", "300", "--quiet"]


def train(folder, *more):
    return main([*QUICK, "--out", str(folder), *more])


def arrays(path):
    with np.load(path, allow_pickle=False) as archive:
        return {key: archive[key] for key in archive.files}


def assert_equal_arrays(first, second):
    a, b = arrays(first), arrays(second)
    assert a.keys() == b.keys()
    for key in a:
        np.testing.assert_array_equal(a[key], b[key], err_msg=key)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "whole"
    assert train(folder) == 0
    return folder


def test_a_run_leaves_every_file_the_documentation_names(finished):
    names = {str(p.relative_to(finished)) for p in finished.rglob("*") if p.is_file()}
    assert names == {"config.toml", "log.csv", "last.npz", "best.npz", "float.npz", "report.json", "film.npz",
                     "model.mqz", "plots/curves.png", "plots/weights.png", "plots/bits.png"}


def test_the_log_has_a_line_per_epoch(finished):
    rows = list(csv.DictReader(open(finished / "log.csv")))
    assert [(r["stage"], r["epoch"]) for r in rows] == [("float", "1"), ("float", "2"), ("quantized", "1"),
                                                        ("quantized", "2"), ("quantized", "3")]
    assert float(rows[1]["loss"]) < float(rows[0]["loss"])


def test_the_report_counts_bits_and_bytes(finished):
    report = json.loads((finished / "report.json").read_text())
    first = report["layers"][0]
    assert first["bits"] == 4 and first["act_bits"] == 8 and first["bytes"] == 64 * 256 // 2 + 4
    assert report["bytes"] == sum(r["bytes"] for r in report["layers"]) + 4 * 4 * (256 + 128)
    assert 5 < report["compression"] < 8 and report["mean_bits"] == 4


def test_the_same_seed_gives_the_same_run_and_another_seed_another(finished, tmp_path):
    train(tmp_path / "again")
    assert_equal_arrays(finished / "last.npz", tmp_path / "again" / "last.npz")
    train(tmp_path / "other", "--seed", "1")
    assert not np.array_equal(arrays(finished / "last.npz")["params/fc1.weight"],
                              arrays(tmp_path / "other" / "last.npz")["params/fc1.weight"])


@pytest.mark.parametrize("stop_after", [1, 2, 3, 4])
def test_a_resumed_run_equals_the_uninterrupted_one_bit_for_bit(finished, tmp_path, monkeypatch, stop_after):
    folder, done, real = tmp_path / "run", [], training.train_epoch

    def interrupted(*args, **kwargs):
        if len(done) == stop_after:
            raise KeyboardInterrupt
        done.append(1)
        return real(*args, **kwargs)

    monkeypatch.setattr("minquant.run.train_epoch", interrupted)
    assert train(folder) == 130
    monkeypatch.undo()
    assert main(["--resume", str(folder), "--quiet"]) == 0
    for name in ("last.npz", "best.npz", "float.npz", "film.npz"):
        assert_equal_arrays(finished / name, folder / name)
    assert (folder / "log.csv").read_bytes() == (finished / "log.csv").read_bytes()
    assert (folder / "report.json").read_text() == (finished / "report.json").read_text()


def test_a_killed_run_loses_at_most_the_epoch_it_was_in(tmp_path):
    folder = tmp_path / "killed"
    command = [sys.executable, "-m", "minquant.train", "--method", "minmax", "--model", "mlp", "--float-epochs", "500",
               "--epochs", "1", "--limit", "300", "--quiet", "--out", str(folder)]
    process = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"})
    deadline = time.monotonic() + 60
    while not (folder / "last.npz").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.3)
    process.send_signal(signal.SIGKILL)
    process.wait()
    parts = runs.read_checkpoint(folder / "last.npz")
    assert len(parts["meta"]["history"]) == int(parts["meta"]["epoch"]) >= 1
    logged = list(csv.DictReader(open(folder / "log.csv")))
    assert len(logged) in (int(parts["meta"]["epoch"]), int(parts["meta"]["epoch"]) - 1)


def test_evaluating_a_run_gives_the_accuracy_it_reported(finished, capsys):
    assert evaluate_main([str(finished), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["accuracy"] == json.loads((finished / "report.json").read_text())["accuracy"]


def test_a_float_checkpoint_starts_another_run_at_its_accuracy(finished, tmp_path):
    train(tmp_path / "from", "--float-from", str(finished), "--bits", "3")
    report = json.loads((tmp_path / "from" / "report.json").read_text())
    assert report["float_accuracy"] == json.loads((finished / "report.json").read_text())["float_accuracy"]


def test_resuming_with_another_setting_is_refused(finished, capsys):
    assert main(["--resume", str(finished), "--bits", "2", "--quiet"]) == 2
    assert "--resume cannot change bits from 4 to 2" in capsys.readouterr().err


def test_resuming_with_the_same_setting_is_fine(finished):
    assert main(["--resume", str(finished), "--bits", "4", "--quiet"]) == 0


def test_resuming_after_the_configuration_was_edited_is_refused(finished, tmp_path, capsys):
    folder = tmp_path / "edited"
    train(folder)
    text = (folder / "config.toml").read_text()
    (folder / "config.toml").write_text(text.replace("batch_size = 64", "batch_size = 32"))
    assert main(["--resume", str(folder), "--quiet"]) == 1
    assert "another configuration" in capsys.readouterr().err


def test_a_new_run_never_overwrites_an_old_one(finished, capsys):
    assert train(finished) == 2
    assert "holds a run already" in capsys.readouterr().err


@pytest.mark.parametrize("damage,message", [
    (lambda path: path.write_bytes(path.read_bytes()[:5000]), "not a readable checkpoint"),
    (lambda path: path.write_bytes(b""), "not a readable checkpoint"),
    (lambda path: np.savez(path, something=np.ones(3)), "not a readable checkpoint"),
    (lambda path: np.save(open(path, "wb"), np.ones(3)), "not a readable checkpoint"),
    (lambda path: path.unlink(), "there is no checkpoint"),
])
def test_a_damaged_or_foreign_checkpoint_is_named(tmp_path, capsys, damage, message):
    folder = tmp_path / "run"
    train(folder)
    damage(folder / "best.npz")
    assert evaluate_main([str(folder)]) == 1
    assert message in capsys.readouterr().err


def test_a_checkpoint_of_another_network_names_what_differs(tmp_path, finished):
    dataset = data.load("digits")
    model = runs.float_model(Config(model="lenet5"), dataset)
    with pytest.raises(runs.RunError, match="does not fit this model: parameter names differ"):
        runs.load_model(model, runs.read_checkpoint(finished / "float.npz"), finished / "float.npz")


def test_a_checkpoint_of_a_later_format_is_refused(tmp_path):
    np.savez(tmp_path / "x.npz", **{"meta/format": np.array(99)})
    with pytest.raises(runs.RunError, match="format 99"):
        runs.read_checkpoint(tmp_path / "x.npz")


def test_a_diverging_loss_stops_with_epoch_layer_and_last_checkpoint(tmp_path, capsys, monkeypatch):
    folder, real = tmp_path / "run", training.step

    def poisoned(model, *args, **kwargs):
        if kwargs.get("epoch", args[5]) == 2:
            model.children["fc2"].params["weight"][3, 4] = np.nan
        return real(model, *args, **kwargs)

    monkeypatch.setattr(training, "step", poisoned)
    assert train(folder) == 1
    message = capsys.readouterr().err
    assert "float epoch 2, step 1" in message and "parameter 'fc2.weight' is no longer finite" in message
    assert f"the last good checkpoint is {folder / 'last.npz'}" in message
    assert np.isfinite(arrays(folder / "last.npz")["params/fc2.weight"]).all()


def test_a_learning_rate_far_too_large_is_named_and_spoils_no_checkpoint(tmp_path, capsys):
    folder = tmp_path / "run"
    assert train(folder, "--method", "cpq", "--lr", "1e3", "--optimizer", "sgd") == 1
    message = capsys.readouterr().err
    assert "quantized epoch" in message and "try a smaller learning rate (this one is " in message
    assert all(np.isfinite(a).all() for k, a in arrays(folder / "last.npz").items() if k.startswith("params/"))


def test_a_run_stopped_in_its_first_epoch_can_be_resumed(finished, tmp_path, monkeypatch, capsys):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("minquant.run.train_epoch", interrupted)
    assert train(tmp_path / "run") == 130
    monkeypatch.undo()
    assert main(["--resume", str(tmp_path / "run"), "--quiet"]) == 0
    assert_equal_arrays(finished / "last.npz", tmp_path / "run" / "last.npz")


def test_a_checkpoint_without_optimizer_is_no_place_to_go_on_from(tmp_path, capsys):
    folder = tmp_path / "run"
    train(folder)
    (folder / "last.npz").write_bytes((folder / "best.npz").read_bytes())
    assert main(["--resume", str(folder), "--quiet"]) == 1
    assert "no checkpoint to go on from" in capsys.readouterr().err


def test_a_setting_that_cannot_work_leaves_no_run_folder(tmp_path):
    assert train(tmp_path / "run", "--override", "nope=2") == 2
    assert not (tmp_path / "run").exists()


def test_learned_bits_that_are_reported_were_trained(tmp_path):
    folder = tmp_path / "run"
    main(["--model", "mlp", "--float-epochs", "2", "--epochs", "4", "--limit", "400", "--quiet", "--out", str(folder),
          "--set", "learn_bits=true", "--set", "penalty=0.5", "--set", "masks_off=0.5"])
    report = json.loads((folder / "report.json").read_text())
    rows = list(csv.DictReader(open(folder / "log.csv")))
    assert report["mean_bits"] == float(rows[-1]["mean_bits"]) and report["best_epoch"] > 2


def test_nothing_half_written_is_left_when_writing_fails(tmp_path):
    path = tmp_path / "x.txt"
    runs.write_text(path, "old")
    with pytest.raises(RuntimeError):
        with runs.replacing(path) as temporary:
            temporary.write_text("new")
            raise RuntimeError
    assert path.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["x.txt"]


def test_a_folder_takes_the_place_of_another_whole_or_not_at_all(tmp_path, monkeypatch):
    def write(text, error=None):
        with runs.replacing(tmp_path / "folder") as temporary:
            temporary.mkdir()
            (temporary / text).write_text(text)
            if error:
                raise error

    write("first")
    with pytest.raises(RuntimeError):
        write("second", RuntimeError())
    assert [str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*")] == ["folder", "folder/first"]
    write("second")
    assert [str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*")] == ["folder", "folder/second"]
    monkeypatch.setattr(runs.os, "replace", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write("third")
    assert [str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*")] == ["folder", "folder/second"]


def test_a_piped_run_prints_one_line_per_epoch(tmp_path, capsys):
    main([flag for flag in QUICK if flag != "--quiet"] + ["--out", str(tmp_path / "run")])
    lines = [line for line in capsys.readouterr().err.splitlines() if "validation " in line and "loss" in line]
    assert len(lines) == 5 and "\r" not in "".join(lines)


def test_a_terminal_gets_a_status_line_with_rate_and_time_left():
    class Terminal:
        def __init__(self):
            self.text = ""

        def isatty(self):
            return True

        def write(self, text):
            self.text += text

        def flush(self):
            pass

    stream = Terminal()
    watch = Progress(stream=stream).begin("float 1/2")
    watch(10, 100, 0.5, 0.25)
    assert all(part in stream.text for part in ("\r", "float 1/2", "loss 0.5000", "accuracy", "images/s", "s left"))


def test_a_run_whose_constraint_is_never_met_says_so(tmp_path, monkeypatch):
    from minquant.quantizers.minmax import MinMax
    monkeypatch.setattr(MinMax, "feasible", lambda self, model: False)
    config = Config(method="minmax", model="mlp", float_epochs=1, epochs=1, limit=300)
    with pytest.raises(runs.RunError, match="no epoch met the constraint of method .minmax."):
        Run(config, tmp_path / "run", data.load("digits", limit=300), Progress(quiet=True)).train()


def test_what_is_stored_is_the_last_state_that_met_the_constraint(tmp_path, monkeypatch):
    from minquant.quantizers.minmax import MinMax
    monkeypatch.setattr(MinMax, "step_begin", lambda self, model, epoch, progress: setattr(self, "epoch", epoch))
    monkeypatch.setattr(MinMax, "feasible", lambda self, model: self.epoch <= 2)
    monkeypatch.setattr("minquant.run.evaluate", lambda model, split, normalise: (1.0, 0.5))
    config = Config(method="minmax", model="mlp", float_epochs=1, epochs=4, limit=300)
    report = Run(config, tmp_path / "run", data.load("digits", limit=300), Progress(quiet=True)).train()
    assert report["best_epoch"] == 2


def test_post_training_quantization_needs_no_epoch(tmp_path):
    config = Config(method="ptq", model="mlp", float_epochs=4, bits=8, act_bits=8)
    assert config.epochs == 0
    report = Run(config, tmp_path / "run", data.load("digits"), Progress(quiet=True)).train()
    assert abs(report["accuracy"] - report["float_accuracy"]) < 0.02 and report["mean_bits"] == 8
    again = Run(config, tmp_path / "run", data.load("digits"), Progress(quiet=True), resume=True).train()
    assert again == report
