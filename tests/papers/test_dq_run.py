"""Memory budgets of DQ from the command line: what is stored meets them, and the report tells bits and bytes."""

import json

import pytest

from minquant.train import main

FLAGS = ["--method", "dq", "--model", "mlp", "--float-epochs", "1", "--epochs", "4", "--lr", "5e-3"]


@pytest.mark.parametrize("settings", [("budget_w_kb=18",), ("budget_a_kb=0.15", "constraint=sum"),
                                      ("budget_a_kb=0.1", "constraint=max")])
def test_a_run_under_each_memory_constraint_ends_within_it_and_reports_every_tensor(tmp_path, settings, capsys):
    flags = [flag for setting in settings for flag in ("--set", setting)]
    assert main([*FLAGS, *flags, "--out", str(tmp_path / "run"), "--quiet"]) == 0
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    weights, (source, *activations) = report["layers"], report["activations"]
    assert source["bits"] == 8 and [row["elements"] for row in activations] == [256, 128]
    sizes = [row["elements"] * row["bits"] / 8192 for row in activations]
    shares = [row["shape"][0] * row["shape"][1] * row["bits"] / 8192 for row in weights]
    budget = float(settings[0].partition("=")[2])
    spent = sum(shares) if len(settings) == 1 else sum(sizes) if "constraint=sum" in settings else max(sizes)
    assert 0.5 * budget < spent <= budget
    learned = weights if len(settings) == 1 else activations
    assert any(row["bits"] < 4 for row in learned)
    assert f"{sum(row['bytes'] for row in report['activations']):,} bytes an image" in capsys.readouterr().out


def test_a_budget_that_no_bits_can_meet_ends_the_command_with_the_least_that_can(tmp_path, capsys):
    flags = ["--float-epochs", "0", "--set", "budget_w_kb=1", "--out", str(tmp_path / "run"), "--quiet"]
    assert main([*FLAGS, *flags]) == 2
    assert "budget_w_kb=1.0 cannot be met: 12.31 KB remain" in capsys.readouterr().err
