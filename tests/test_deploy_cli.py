"""The verbs `export` and `evaluate FILE.mqz`: what they write and print, and what they refuse."""

import json
import shutil
import sys

import numpy as np
import pytest

from minquant import check, kernels
from minquant.deploy import Program
from minquant.evaluate import main as evaluate
from minquant.export import TARGETS, refuse_occupied
from minquant.export import main as export
from minquant.train import main as train

SHORT = ["--method", "cpq", "--bits", "3", "--model", "mlp", "--float-epochs", "1", "--epochs", "1", "--quiet"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    assert train([*SHORT, "--no-export", "--out", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def exported(run):
    assert export([str(run), "--to", "mqz", "--check"]) == 0
    return run / "model.mqz"


def test_export_reports_what_it_wrote_and_what_the_check_compared(run, tmp_path, capsys):
    assert export([str(run), "--check", "--json", "--out", str(tmp_path / "m.mqz")]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["bytes"] == (tmp_path / "m.mqz").stat().st_size and result["unproven"] == 0
    assert result["check"] == {"images": 360, "codes": 360 * (64 + 256 + 128), "mismatches": 0,
                               "backends": list(check.backends_of(kernels.isa()).values()),
                               "mqz": {"images": 360, "logits": 3600, "mismatches": 0}}


def test_an_onnx_model_is_exported_and_checked_in_one_command(run, tmp_path, capsys):
    out = tmp_path / "m.onnx"
    assert export([str(run), "--to", "onnx", "--check", "--out", str(out)]) == 0
    assert "onnx against the program: images 360, codes 186,368, mismatches 0" in capsys.readouterr().out
    assert [p.name for p in tmp_path.iterdir()] == ["m.onnx"]


def test_a_c_project_is_exported_and_checked_and_replaces_only_a_c_project(run, tmp_path, capsys):
    out = tmp_path / "project"
    assert export([str(run), "--to", "c", "--check", "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "c against the program: images 360" in said and "constant bytes" in said and "arena bytes" in said
    command = [str(run), "--to", "c", "--out"]
    assert export([*command, str(out)]) == 1 and "exists already" in capsys.readouterr().err
    assert export([*command, str(out), "--overwrite"]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["project"] and not (out / "model").exists()
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis").write_text("")
    assert export([*command, str(other), "--overwrite"]) == 1 and "it has no model.h" in capsys.readouterr().err


def test_an_export_without_its_extra_says_what_to_install_and_writes_nothing(run, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert export([str(run), "--to", "onnx", "--out", str(tmp_path / "m.onnx")]) == 1
    assert 'pip install "minquant[export]"' in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_a_file_that_fails_its_check_is_not_left_behind(run, tmp_path, monkeypatch, capsys):
    def wrong(program, path, images):
        raise check.BitExactError("other logits")

    monkeypatch.setitem(TARGETS, "mqz", TARGETS["mqz"]._replace(check=wrong))
    assert export([str(run), "--out", str(tmp_path / "m.mqz"), "--check"]) == 1
    assert "error: other logits" in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_a_folder_is_replaced_only_where_an_export_made_it_and_only_when_told(tmp_path):
    with pytest.raises(ValueError, match="is a folder; name a file"):
        refuse_occupied(tmp_path, True)
    refuse_occupied(tmp_path, False, "model.h")
    (tmp_path / "mine.txt").touch()
    with pytest.raises(ValueError, match="a folder of something else .it has no model.h."):
        refuse_occupied(tmp_path, True, "model.h")
    (tmp_path / "model.h").touch()
    refuse_occupied(tmp_path, True, "model.h")
    with pytest.raises(ValueError, match="exists already; choose another --out"):
        refuse_occupied(tmp_path, False, "model.h")


def test_training_ends_with_a_checked_program_unless_told_not_to(run, exported, tmp_path, capsys):
    assert train([*SHORT, "--out", str(tmp_path / "again")]) == 0
    text = capsys.readouterr().out
    program = tmp_path / "again" / "model.mqz"
    assert program.read_bytes() == exported.read_bytes()
    assert f"integer program     {program}, {program.stat().st_size:,} bytes\n" in text
    assert f"checked             {360 * 448:,} codes on 360 test images: network in float64 = NumPy" in text


@pytest.mark.parametrize("flags,reason", [
    (["--act-bits", "float"], "none: layer 'flatten' reads the image; quantize activations too"),
    (["--override", "fc2=float"], "none: layer 'fc2' has float weights; quantize it"),
    (["--method", "float"], "none: layer 'flatten' reads the image")])
def test_a_training_that_integers_cannot_express_says_so_in_a_line_and_is_no_failure(flags, reason, tmp_path, capsys):
    assert train([*SHORT, *flags, "--out", str(tmp_path / "run")]) == 0
    assert f"integer program     {reason}" in capsys.readouterr().out and not (tmp_path / "run/model.mqz").exists()


def test_a_program_has_the_accuracy_of_its_run_and_agrees_with_it(run, exported, capsys):
    capsys.readouterr()
    assert evaluate([str(exported), "--check", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert evaluate([str(run), "--json"]) == 0
    assert result["accuracy"] == json.loads(capsys.readouterr().out)["accuracy"]
    assert result["images"] == 360 and result["images_per_s"] > 0 and result["check"]["mismatches"] == 0


def test_an_evaluation_names_speed_layers_instruction_set_and_threads(exported, monkeypatch, capsys):
    assert evaluate([str(exported), "--threads", "1"]) == 0
    text = capsys.readouterr().out
    assert "images/s in batches of 100, " in text and f"{kernels.isa()}, 1 thread\n" in text
    assert evaluate([str(exported), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["threads"] == kernels.default_threads() and result["isa"] == kernels.isa()
    if kernels.isa() != "numpy":
        layers = result["us_per_image"]
        assert {"fc1", "fc2", "fc3"} <= set(layers) and all(layers[name] > 0 for name in ("fc1", "fc2", "fc3"))
        assert sum(layers.values()) < 1e3 * result["ms_per_image"] * result["batch"]
    monkeypatch.setattr(kernels, "isa", lambda: "numpy")
    assert evaluate([str(exported)]) == 0
    assert "; numpy, " in (text := capsys.readouterr().out) and "times of single layers need the compiled" in text


def test_a_kernel_that_computes_another_code_is_named(run, exported, monkeypatch, capsys):
    monkeypatch.setattr(check, "backends_of", lambda isa: {"numpy": "NumPy", "kernels": "kernels (broken)"})
    trace = Program.trace

    def broken(self, images, num_threads=None, backend=None):
        values = trace(self, images, num_threads, "numpy")
        if backend == "kernels":
            values["relu2_quantizer"][3, 5] ^= 1
        return values

    monkeypatch.setattr(Program, "trace", broken)
    assert evaluate([str(exported), "--check"]) == 1
    error = capsys.readouterr().err
    assert "the first difference is at 'relu2_quantizer', image 3, index (5,)" in error and "(kernels (broken)" in error


def test_a_file_elsewhere_is_checked_against_the_run_that_is_named(run, exported, tmp_path, capsys):
    moved = tmp_path / "moved.mqz"
    moved.write_bytes(exported.read_bytes())
    assert evaluate([str(moved), "--check"]) == 1
    assert "is not a run folder" in capsys.readouterr().err
    assert evaluate([str(moved), "--check", "--of", str(run)]) == 0
    assert "all logits on 360 images are equal to the last bit" in capsys.readouterr().out


def test_an_existing_file_is_kept_unless_told_otherwise(run, exported, capsys):
    before = exported.read_bytes()
    assert export([str(run)]) == 1
    assert "exists already" in capsys.readouterr().err
    assert export([str(run), "--overwrite"]) == 0 and exported.read_bytes() == before


@pytest.mark.parametrize("arguments,message", [
    (["{run}", "--out", "{run}"], "is a folder; name a file"),
    (["{run}", "--out", "{run}/none/m.mqz"], "there is no folder"),
    (["{run}/plots"], "is not a run folder"),
    (["{run}", "--checkpoint", "float.npz", "--out", "{run}/f.mqz"], "quantize activations too"),
])
def test_exports_that_cannot_work_say_why_and_write_nothing(run, arguments, message, capsys):
    before = sorted(run.rglob("*"))
    assert export([a.format(run=run) for a in arguments]) == 1
    assert message in capsys.readouterr().err and sorted(run.rglob("*")) == before


def damaged(run, folder, change):
    """A copy of a run folder without its model.mqz, changed."""
    shutil.copytree(run, folder, ignore=shutil.ignore_patterns("*.mqz", "plots"))
    change(folder)
    return folder


def cut_off(path):
    path.write_bytes(path.read_bytes()[:-500])


def diverged(folder):
    with np.load(folder / "best.npz") as archive:
        arrays = dict(archive)
    arrays["params/fc2.weight"][3, 4] = np.nan
    np.savez(folder / "best.npz", **arrays)


@pytest.mark.parametrize("change,message", [
    (lambda folder: (folder / "best.npz").unlink(), "if the run was interrupted, finish it: python -m minquant"),
    (lambda folder: cut_off(folder / "best.npz"), "best.npz is not a readable checkpoint of this project"),
    (lambda folder: np.savez(folder / "best.npz", weights=np.ones(3)), "best.npz is not a readable checkpoint"),
    (lambda folder: (folder / "best.npz").write_bytes(b"\x80\x04pickle"), "best.npz is not a readable checkpoint"),
    (lambda folder: (folder / "config.toml").unlink(), "is not a run folder: it has no config.toml"),
    (lambda folder: (folder / "config.toml").write_text("bits = [["), "cannot read the configuration"),
    (lambda folder: (folder / "config.toml").write_text('colour = "red"'), "there is no setting 'colour'"),
    (lambda folder: (folder / "config.toml").write_text('model = "lenet5"\nmethod = "cpq"'), "does not fit this model"),
    (diverged, "'fc2.weight' holds NaN or infinity; lower a checkpoint from before the training diverged"),
])
@pytest.mark.parametrize("target", ["mqz", "onnx"])
def test_a_run_that_is_unfinished_foreign_or_damaged_is_named_and_nothing_is_written(run, tmp_path, change, message,
                                                                                    target, capsys):
    folder = damaged(run, tmp_path / "run", change)
    before = sorted(folder.iterdir())
    assert export([str(folder), "--to", target]) == 1
    assert message in capsys.readouterr().err and sorted(folder.iterdir()) == before


def test_a_place_that_cannot_be_written_to_is_an_error_before_any_work(run, capsys):
    assert export([str(run), "--out", "/proc/model.mqz"]) == 1
    assert "/proc" in capsys.readouterr().err


def test_a_checkpoint_from_before_the_end_is_exported_in_its_stored_form_with_a_note(tmp_path, capsys):
    folder = tmp_path / "run"
    assert train([*SHORT, "--method", "dgms", "--no-export", "--out", str(folder)]) == 0
    assert export([str(folder), "--checkpoint", "last.npz", "--check"]) == 0
    text = capsys.readouterr().out
    assert "note    last.npz is of epoch 1, before the run's end" in text and "are equal to the last bit" in text
    assert evaluate([str(folder / "model.mqz"), "--check", "--checkpoint", "last.npz"]) == 0


@pytest.mark.parametrize("arguments,message", [
    (["{run}/none.mqz"], "No such file"),
    (["{run}/report.json"], "it is not an .mqz file"),
    (["{run}", "--check"], "export it first: python -m minquant.export"),
    (["{run}/model.mqz", "--data", "nothing"], "nothing"),
    (["{run}/model.mqz", "--threads", "0"], "num_threads=0 does not work; it takes 1.."),
])
def test_evaluations_that_cannot_work_say_why(run, exported, arguments, message, capsys):
    assert evaluate([a.format(run=run) for a in arguments]) == 1
    assert message in capsys.readouterr().err
