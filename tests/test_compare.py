"""A comparison gives every method the same start, keeps its runs, and goes on where it stopped."""

import csv
import json

import pytest
from distributed import LocalCluster

from minquant import compare
from minquant.config import ConfigError
from minquant.plot import pareto
from minquant.runs import RunError

FLAGS = ["--model", "mlp", "--float-epochs", "2", "--epochs", "1", "--limit", "300", "--jobs", "1", "--quiet"]


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compare")
    flags = ["--methods", "minmax;minmax:per_channel=true", "--bits", "2,4", "--seeds", "0,1", "--runs", str(folder)]
    assert compare.main(flags + FLAGS) == 0
    return folder, flags


def test_every_variant_bits_and_seed_has_a_row(done):
    rows = json.loads((done[0] / "summary.json").read_text())
    assert len(rows) == 2 * 2 * 2 and all(row["error"] is None and 0 < row["accuracy"] < 1 for row in rows)
    assert len(list(csv.DictReader(open(done[0] / "summary.csv")))) == 8


def test_all_variants_of_a_seed_start_from_the_same_float_network(done):
    rows = json.loads((done[0] / "summary.json").read_text())
    for seed in (0, 1):
        assert len({row["float_accuracy"] for row in rows if row["seed"] == seed}) == 1


def test_the_table_gives_mean_and_spread_over_the_seeds(done):
    rows = json.loads((done[0] / "summary.json").read_text())
    pair = [row["accuracy"] for row in rows if row["variant"] == "minmax" and row["bits"] == 4]
    summary = {(s[0], s[1]): s for s in compare.spread(rows)}[("minmax", 4)]
    assert summary[2] == pytest.approx(sum(pair) / 2) and summary[3] == min(pair) and summary[7] == 2
    assert f"| minmax | 4 | {sum(pair) / 2:.2%}" in (done[0] / "table.md").read_text()


def test_a_second_call_repeats_no_finished_run(done, monkeypatch):
    folder, flags = done
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("last.npz")}
    assert compare.main(flags + FLAGS) == 0
    assert before == {p: p.stat().st_mtime_ns for p in folder.rglob("last.npz")} and len(before) == 10


def test_runs_made_with_other_settings_are_not_taken_for_these(done, capsys):
    folder, flags = done
    before = (folder / "minmax-2bit-seed0" / "report.json").read_text()
    assert compare.main([*flags, *FLAGS, "--epochs", "2", "--out", str(folder / "other")]) == 1
    assert "minmax-2bit-seed0 holds a run with other settings" in capsys.readouterr().out
    assert (folder / "minmax-2bit-seed0" / "report.json").read_text() == before


def test_the_layers_bits_can_be_those_of_a_run_of_the_same_seed(done, tmp_path):
    pattern = str(done[0] / "minmax-2bit-seed{seed}")
    values = {"overrides": {"fc3": 8}}
    jobs = compare.plan({"lsq": ("lsq", {})}, [4], [0, 1], values, bits_from=pattern)
    assert [job.values["overrides"] for job in jobs] == [{"fc1": 2, "fc2": 2, "fc3": 8}] * 2
    with pytest.raises(RunError, match="not the report of a finished run"):
        compare.plan({"lsq": ("lsq", {})}, [4], [0, 7], values, bits_from=pattern)


def test_the_pictures_are_drawn(done):
    assert {p.name for p in done[0].glob("*.png")} == {"accuracy_bits.png", "accuracy_size.png", "layer_bits.png"}


def test_the_pareto_front_holds_what_no_smaller_network_reaches():
    points = [(20, 90.0), (10, 80.0), (15, 79.0), (20, 85.0), (30, 90.0), (40, 91.0)]
    assert pareto(points) == [(10, 80.0), (20, 90.0), (40, 91.0)]


def test_the_bits_of_a_layer_are_means_over_the_seeds():
    rows = [{"variant": "dq", "bits": 4, "error": None, "layer_bits": {"fc1": bits, "fc2": 2}} for bits in (3, 4)]
    rows.append({"variant": "dq", "bits": 4, "error": "it broke", "layer_bits": {}})
    assert compare.layer_bits(rows) == {"dq, 4 bits": {"fc1": 3.5, "fc2": 2.0}}


def test_a_run_that_fails_is_reported_and_the_others_stand(tmp_path, capsys):
    (tmp_path / "minmax-2bit-seed0").mkdir()
    (tmp_path / "minmax-2bit-seed0" / "last.npz").write_bytes(b"damaged")
    assert compare.main(["--methods", "minmax", "--bits", "2,4", "--runs", str(tmp_path), *FLAGS]) == 1
    out = capsys.readouterr().out
    assert "failed: minmax, 2 bits, seed 0: RunError" in out and "| minmax | 4 |" in out


def test_a_dask_cluster_of_two_worker_processes_gives_the_same_rows(done, tmp_path):
    with LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None) as cluster:
        flags = ["--methods", "minmax", "--bits", "2,4", "--runs", str(tmp_path), "--dask", cluster.scheduler_address]
        assert compare.main(flags + FLAGS) == 0
        finished = [change for change in cluster.scheduler.transition_log if change.finish == "memory"]
    assert len(finished) >= 3  # the float network and both runs were computed by the workers
    here, there = (json.loads((folder / "summary.json").read_text()) for folder in (done[0], tmp_path))
    assert there == [row for row in here if row["variant"] == "minmax" and row["seed"] == 0]


def test_an_address_without_a_scheduler_is_an_error_that_says_how_to_start_one(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(compare, "SECONDS_TO_CONNECT", 0.2)
    flags = ["--methods", "minmax", "--runs", str(tmp_path), "--dask", "tcp://127.0.0.1:1"]
    assert compare.main(flags + FLAGS) == 2
    assert "no scheduler answers" in capsys.readouterr().err


@pytest.mark.parametrize("text,message", [("", "no method named"), ("minmax:per_channel", "KEY=VALUE")])
def test_mistakes_in_the_list_of_methods_are_named(text, message):
    with pytest.raises(ConfigError, match=message):
        compare.parse_variants(text)


def test_unknown_methods_and_options_are_refused_before_anything_runs(tmp_path, capsys):
    assert compare.main(["--methods", "minmac", "--runs", str(tmp_path / "x"), *FLAGS]) == 2
    assert "did you mean minmax" in capsys.readouterr().err
    assert compare.main(["--methods", "minmax:channel=1;minmax", "--runs", str(tmp_path / "x"), *FLAGS]) == 2
    assert "no option 'channel'" in capsys.readouterr().err and not (tmp_path / "x").exists()
