"""The command line: configuration from file and flags, and errors that name the nearest valid word."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import minquant
from minquant.config import Config, ConfigError, read_toml
from minquant.threads import VARIABLES
from minquant.train import main, make_parser, resolve


def resolved(*argv):
    return resolve(make_parser().parse_args([*argv, "--out", "nowhere"]))[0]


def failing(capsys, *argv):
    try:
        status = main([*argv, "--quiet"])
    except SystemExit as stop:
        status = stop.code
    assert status == 2
    return capsys.readouterr().err


def test_flags_win_over_the_file_and_set_over_both(tmp_path):
    path = tmp_path / "c.toml"
    path.write_text('method = "minmax"\nbits = 2\nepochs = 5\n[options]\nper_channel = true\n'
                    '[overrides]\nconv1 = 8\nfc3 = "float"\n')
    config = resolved("--config", str(path), "--bits", "3", "--set", "epochs=7", "--override", "fc2=4")
    assert (config.method, config.bits, config.epochs) == ("minmax", 3, 7)
    assert config.options == {"per_channel": True} and config.overrides == {"conv1": 8, "fc3": None, "fc2": 4}


def test_the_bits_of_a_finished_run_are_taken_over_layer_by_layer_and_overrides_win(tmp_path, capsys):
    rows = [{"name": "conv1", "bits": 32}, {"name": "fc2", "bits": 3}, {"name": "fc3", "bits": 5}]
    (tmp_path / "report.json").write_text(json.dumps({"layers": rows}))
    config = resolved("--method", "minmax", "--bits-from", str(tmp_path), "--override", "fc3=8")
    assert config.overrides == {"conv1": None, "fc2": 3, "fc3": 8}
    assert main(["--method", "minmax", "--bits-from", str(tmp_path / "absent"), "--quiet"]) == 1
    assert "not the report of a finished run" in capsys.readouterr().err


def test_the_resolved_configuration_reads_back_as_itself(tmp_path):
    config = Config(method="minmax", act_bits=None, float_from='a "quoted" \\ name', options={"per_channel": True},
                    overrides={"fc*": None})
    path = tmp_path / "c.toml"
    path.write_text(config.to_toml())
    assert Config(**read_toml(path)) == config


@pytest.mark.parametrize("word", ["same", "8", "float"])
def test_the_first_and_last_layer_flag_keeps_its_words(tmp_path, word):
    config = resolved("--method", "minmax", "--first-last", word)
    (tmp_path / "c.toml").write_text(config.to_toml())
    assert config.first_last == word == Config(**read_toml(tmp_path / "c.toml")).first_last


def test_augmentation_can_be_switched_off():
    assert resolved("--method", "minmax", "--data", "cifar10").augment == "crop4,flip"
    assert resolved("--method", "minmax", "--data", "cifar10", "--augment", "").augment == ""


def test_aliases_of_data_sets_are_taken():
    assert resolved("--method", "minmax", "--data", "fashion").data == "fashion-mnist"


def test_unset_epochs_depend_on_the_data_set():
    assert Config(data="digits").epochs > Config(data="fashion-mnist").epochs


@pytest.mark.parametrize("argv,message", [
    (["--bitz", "4"], "unknown argument --bitz; nearest: --bits"),
    (["--method", "cpk"], "there is no method 'cpk'; nearest: cpq"),
    (["--model", "resnet21"], "there is no model 'resnet21'; nearest: resnet20"),
    (["--data", "fashon-mnist"], "fashion-mnist"),
    (["--set", "epoch=3"], "nearest: epochs"),
    (["--set", "epochs"], "KEY=VALUE"),
    (["--method", "minmax", "--set", "per_chan=1"], "nearest: per_channel"),
    (["--bits", "four"], "bits='four' does not work; it takes a whole number"),
    (["--bits", "none"], "bits='none' does not work"),
    (["--lr", "-1"], "lr=-1.0 does not work"),
    (["--batch-size", "1"], "batch_size=1 does not work"),
    (["--validation", "1.5"], "validation=1.5"),
    (["--optimizer", "rmsprop"], "optimizer='rmsprop' does not work; it takes sgd, adam, adamw"),
    (["--override", "conv1=x"], "override conv1='x'"),
    (["--config", "does-not-exist.toml"], "cannot read the configuration does-not-exist.toml"),
    (["--method", "minmax", "--bits", "9", "--epochs", "1", "--float-epochs", "0"], "bits=9 is not in 1..8"),
    (["--augment", "crp4"], "crop"),
    (["--threads", "0"], "--threads 0 does not work"),
    (["--first-last", "16"], "first_last='16' does not work; it takes same, 8, float"),
    (["--method", "minmax", "--act-bits", "9"], "act_bits=9 is not in 1..8"),
    (["--method", "minmax", "--override", "nope=2"], "override 'nope' matches no layer"),
    (["--method", "minmax", "--override", "conv1=9"], "override conv1=9 is not in 1..8"),
    (["--model", "mlp", "--limit", "2", "--float-epochs", "1"], "no images"),
])
def test_mistakes_are_answered_with_the_nearest_valid_word(tmp_path, capsys, argv, message):
    assert message in failing(capsys, *argv, "--out", str(tmp_path / "run"))


@pytest.mark.parametrize("text,message", [
    ("bitz = 3", "no setting 'bitz'; nearest: bits"), ("bits = [1]", "bits=\\[1\\]"), ("bits = ", "cannot read"),
    ("options = 3", "is a table"), ("bits = 2.5", "bits=2.5")])
def test_mistakes_in_the_file_are_named(tmp_path, text, message):
    path = tmp_path / "c.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_toml(path)


def test_a_missing_data_set_says_where_it_looked(tmp_path, capsys):
    message = failing(capsys, "--data", "cifar10", "--data-root", str(tmp_path), "--out", str(tmp_path / "run"))
    assert str(tmp_path) in message and "cifar" in message


def test_methods_are_listed_with_paper_bits_and_options(capsys):
    assert main(["--list-methods"]) == 0
    text = capsys.readouterr().out
    assert "minmax: Min-max" in text and "--set per_channel=False" in text and "weights 1..8" in text


def test_json_is_the_only_thing_on_standard_output(tmp_path, capsys):
    argv = ["--method", "float", "--model", "mlp", "--float-epochs", "1", "--limit", "200", "--json"]
    assert main([*argv, "--out", str(tmp_path / "run")]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["folder"] == str(tmp_path / "run") and 0 < report["accuracy"] < 1


def test_threads_reach_the_numerical_libraries(tmp_path):
    environment = {k: v for k, v in os.environ.items() if k not in VARIABLES}
    argv = ["--method", "float", "--model", "mlp", "--float-epochs", "1", "--limit", "200", "--threads", "1", "--quiet"]
    done = subprocess.run([sys.executable, "-m", "minquant.train", *argv, "--out", str(tmp_path / "run")],
                          env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_package_lists_its_verbs():
    done = subprocess.run([sys.executable, "-m", "minquant"], capture_output=True, text=True, check=True)
    package = Path(minquant.__file__).parent
    verbs = {path.stem for path in package.glob("*.py") if "def main(" in path.read_text(encoding="utf-8")}
    verbs |= {path.parent.name for path in package.glob("*/__main__.py")}
    assert {line.split()[0] for line in done.stdout.splitlines()[4:]} == verbs - {"__main__"} >= {"train", "bench"}


def test_a_verb_given_as_an_argument_is_answered_with_the_command():
    done = subprocess.run([sys.executable, "-m", "minquant", "trian"], capture_output=True, text=True)
    assert done.returncode == 2 and "python -m minquant.train" in done.stderr
