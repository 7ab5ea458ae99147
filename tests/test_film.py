"""The record of a run, its pictures and its film: whole runs, interrupted ones, and folders that are none."""

import numpy as np
import pytest
from PIL import Image

from minquant import film, plot
from minquant.recording import Recording
from minquant.train import main as train

QUICK = ["--model", "mlp", "--bits", "2", "--float-epochs", "1", "--epochs", "3", "--limit", "300", "--quiet",
         "--no-export"]
METHODS = "qnet", "dgms", "cpq", "gdrq"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("films")
    for method in METHODS:
        assert train([*QUICK, "--method", method, "--out", str(folder / method)]) == 0
    return folder


@pytest.fixture
def run(runs, tmp_path):
    """A copy of a run that a test may spoil."""
    copy = tmp_path / "run"
    copy.mkdir()
    for path in (runs / "qnet").iterdir():
        if path.is_file():
            (copy / path.name).write_bytes(path.read_bytes())
    return copy


def test_every_epoch_is_recorded_and_so_is_the_start(runs):
    for method in METHODS:
        recording = Recording.load(runs / method / "film.npz")
        assert [int(entry["epoch"]) for entry in recording.epochs] == [0, 1, 2, 3]
        assert recording.names["layers"] == ["fc1", "fc2", "fc3"]
        moved = [entry["weights"] for entry in recording.epochs]
        assert not np.array_equal(moved[0], moved[3], equal_nan=True)


def test_the_last_recorded_weights_and_levels_are_those_of_the_checkpoint(runs):
    entry = Recording.load(runs / "qnet" / "film.npz").epochs[-1]
    with np.load(runs / "qnet" / "last.npz") as stored:
        weight = stored["params/fc1.weight"].ravel()
        scale = np.exp(stored["params/fc1.weight_quantizer.log_alpha"])
    assert np.isin(entry["weights"][0], weight).all()
    np.testing.assert_allclose(entry["levels"][0][:3], [-scale, 0, scale], rtol=1e-6)
    assert np.isnan(entry["levels"][0][3:]).all()


def test_a_relaxed_quantizer_is_recorded_as_it_trains_and_gets_harder(runs):
    def distance_from_levels(entry):
        used, levels = entry["quantized"][0], entry["levels"][0]
        return np.abs(used[:, None] - levels[np.isfinite(levels)]).min(1).mean()

    for method in ("qnet", "dgms"):
        epochs = Recording.load(runs / method / "film.npz").epochs
        assert 0 < distance_from_levels(epochs[-1]) < 0.5 * distance_from_levels(epochs[0])


def test_levels_that_differ_between_channels_are_not_recorded(runs):
    assert np.isnan(Recording.load(runs / "gdrq" / "film.npz").epochs[0]["levels"]).all()


def test_a_record_that_is_ahead_of_the_checkpoint_is_cut(runs):
    path = runs / "cpq" / "film.npz"
    assert [int(entry["epoch"]) for entry in Recording.load(path, last=1).epochs] == [0, 1]


def test_a_lost_record_does_not_stop_a_resumed_run(run, capsys):
    (run / "film.npz").unlink()
    assert train(["--resume", str(run)]) == 0
    assert "the film will begin here: there is no" in capsys.readouterr().err


def test_a_film_has_a_frame_per_epoch_and_the_width_asked_for(run, capsys):
    assert film.main([str(run), "--width", "400"]) == 0
    with Image.open(run / "film.gif") as gif:
        assert gif.n_frames == 4 and gif.width == 400 and gif.info["loop"] == 0
        first, last = (np.asarray(frame(gif, i)) for i in (0, 3))
    assert (first != last).any()
    assert "4 frames" in capsys.readouterr().out


def frame(gif, index):
    gif.seek(index)
    return gif.convert("RGB")


def test_only_the_layers_asked_for_are_shown(run, capsys):
    assert film.main([str(run), "--layers", "fc3", "--width", "300"]) == 0
    assert film.main([str(run), "--layers", "fc9"]) == 1
    assert "no quantized layer 'fc9'; there are fc1, fc2, fc3" in capsys.readouterr().err


def test_an_unfinished_run_gives_its_film_so_far_and_what_is_missing_is_named(run, capsys):
    (run / "report.json").unlink()
    (run / "config.toml").write_text("method = 3 3")
    (run / "log.csv").unlink()
    assert film.main([str(run), "--width", "300", "--layers", "fc1"]) == 0
    message = capsys.readouterr().err
    assert "not finished; its film ends at epoch 3" in message
    assert "no title: cannot read the configuration" in message and "no accuracy: there is no" in message


@pytest.mark.parametrize("damage, message", [
    (lambda path: path.unlink(), "there is no "),
    (lambda path: path.write_bytes(path.read_bytes()[:900]), "is not the record of a run"),
    (lambda path: np.savez(path, weights=np.ones(3)), "is not the record of a run"),
    (lambda path: np.savez(path, **{**dict(np.load(path)), "weights": np.ones((4, 3, 7))}), "do not fit each other"),
])
def test_without_a_record_there_is_no_film_and_no_file(run, capsys, damage, message):
    damage(run / "film.npz")
    assert film.main([str(run)]) == 1
    assert message in capsys.readouterr().err and not (run / "film.gif").exists()


def test_plot_draws_every_picture_of_a_run(run, capsys):
    assert plot.main([str(run)]) == 0
    names = {path.name for path in (run / "plots").iterdir()}
    assert names == {"curves.png", "weights.png", "bits.png", "weights_by_epoch.png", "functions.png"}
    assert len(capsys.readouterr().out.splitlines()) == 5


def test_plot_draws_what_a_damaged_run_still_has_and_names_the_rest(run, capsys):
    (run / "best.npz").write_bytes(b"nothing")
    (run / "film.npz").unlink()
    (run / "log.csv").write_text("a,b\n1,2\n")
    assert plot.main([str(run), "--out", str(run / "again")]) == 1
    message = capsys.readouterr().err
    assert {path.name for path in (run / "again").iterdir()} == {"weights.png", "bits.png"}
    assert "those of last.npz" in message and "is not the log of a run" in message
    assert "weights_by_epoch, functions, bits_by_epoch: there is no" in message


def test_a_run_that_quantizes_activations_alone_has_nothing_to_film_and_says_so(tmp_path, capsys):
    folder = tmp_path / "run"
    assert train([*QUICK, "--method", "minmax", "--override", "*=float", "--epochs", "1", "--out", str(folder)]) == 0
    assert len(Recording.load(folder / "film.npz").epochs) == 2 and film.main([str(folder)]) == 1
    assert "no layer of this run has quantized weights" in capsys.readouterr().err
    assert not (folder / "film.gif").exists()


def test_a_float_run_has_no_film_and_lacks_none(tmp_path, capsys):
    arguments = [*QUICK, "--method", "float", "--out", str(tmp_path / "run")]
    assert train(arguments) == 0 and plot.main([str(tmp_path / "run")]) == 0
    assert capsys.readouterr().err == ""
    assert [path.name for path in (tmp_path / "run" / "plots").iterdir()] == ["curves.png"]


@pytest.mark.parametrize("verb", [plot, film])
def test_a_foreign_folder_and_none_at_all_are_named_and_left_alone(tmp_path, capsys, verb):
    (tmp_path / "notes.txt").write_text("mine")
    assert verb.main([str(tmp_path)]) == 1 and verb.main([str(tmp_path / "nowhere")]) == 1
    message = capsys.readouterr().err
    assert "film.npz" in message and "there is no folder" in message
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_learned_bits_become_a_picture_and_fixed_ones_do_not(runs):
    found = film.read(runs / "cpq")
    assert film.bits_by_epoch(found) is None
    found.epochs[-1]["bits"][1] = 1
    assert film.bits_by_epoch(found) is not None


def test_the_picture_of_the_estimators_shows_their_real_gradients(tmp_path, capsys):
    assert plot.main(["--estimators", str(tmp_path / "estimators.png")]) == 0
    with Image.open(tmp_path / "estimators.png") as picture:
        assert picture.width > 1000
    x = np.array([[-0.4], [0.2], [0.4]])
    for title, quantizer in plot.estimator_samples().items():
        quantizer.freeze(x)
        try:
            smooth = quantizer.surrogate
            slope = (smooth(x + 1e-6) - smooth(x - 1e-6)) / 2e-6
        except TypeError:  # no surrogate: differentiated exactly
            slope = (quantizer.forward(x + 1e-6, True)[0] - quantizer.forward(x - 1e-6, True)[0]) / 2e-6
        dx = quantizer.backward(np.ones_like(x), quantizer.forward(x, True)[1])[0]
        np.testing.assert_allclose(dx, slope, rtol=1e-4, atol=1e-6, err_msg=title)


def test_plot_takes_a_run_or_the_estimators_and_not_both(capsys):
    for arguments in ([], ["run", "--estimators", "x.png"]):
        with pytest.raises(SystemExit):
            plot.main(arguments)
        assert "name either a RUN or --estimators FILE.png" in capsys.readouterr().err
