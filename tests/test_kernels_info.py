"""`minquant.kernels.info()`: what it says is what is there."""
import importlib.machinery
import json
import os
import subprocess
import sys

import pytest

import minquant
from minquant import _kernels, kernels


@pytest.fixture
def broken_module(tmp_path, monkeypatch):
    """A compiled module named `broken` that the loader refuses."""
    name = "broken" + importlib.machinery.EXTENSION_SUFFIXES[0]
    (tmp_path / name).write_bytes(b"not a shared library")
    monkeypatch.setattr(_kernels, "HERE", tmp_path)
    monkeypatch.setattr(_kernels, "__path__", [str(tmp_path)])
    monkeypatch.delenv("MINQUANT_NO_EXTENSIONS", raising=False)


def test_info_names_the_version_and_is_plain_json():
    facts = kernels.info()
    assert facts["version"] == minquant.__version__
    assert json.loads(json.dumps(facts)) == facts


def test_info_counts_an_extension_as_ready_exactly_when_it_loads(monkeypatch):
    monkeypatch.delenv("MINQUANT_NO_EXTENSIONS", raising=False)
    facts = kernels.info()
    for name, state in facts["extensions"].items():
        assert (state == "ready") == (_kernels.extension(name) is not None)
    assert facts["in_use"] == ("ready" in facts["extensions"].values())


def test_switching_extensions_off_leaves_none_in_use(monkeypatch, capsys):
    monkeypatch.setenv("MINQUANT_NO_EXTENSIONS", "1")
    assert _kernels.extension("train") is None
    assert kernels.info()["in_use"] is False
    kernels.main([])
    assert "every operation runs in NumPy" in capsys.readouterr().out


def test_zero_and_empty_do_not_switch_extensions_off(monkeypatch):
    for value in ("", "0"):
        monkeypatch.setenv("MINQUANT_NO_EXTENSIONS", value)
        assert not _kernels.switched_off()


def test_a_module_that_was_never_built_is_none():
    assert _kernels.extension("no_such_module") is None


def test_a_module_that_cannot_be_loaded_is_an_error_with_its_remedy(broken_module):
    with pytest.raises(ImportError, match=r"broken.*pip install.*MINQUANT_NO_EXTENSIONS=1"):
        _kernels.extension("broken")


def test_info_reports_a_module_that_cannot_be_loaded_instead_of_raising(broken_module):
    facts = kernels.info()
    assert "cannot be loaded" in facts["extensions"]["broken"]
    assert facts["in_use"] is False and facts["openmp"] is False and facts["build"] == {}


@pytest.mark.parametrize("value, limit", [("1", 1), ("1,8", 1), ("", None), ("0", None), ("many", None)])
def test_threads_follow_the_first_level_of_omp_num_threads_and_ignore_nonsense(monkeypatch, value, limit):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1, 2}, raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", value)
    assert _kernels.default_threads() == (limit or 3)


def test_more_threads_than_cores_are_not_started(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1, 2}, raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "64")
    assert _kernels.default_threads() == 3


def test_the_package_leaves_the_command_to_import_its_own_module():
    done = subprocess.run([sys.executable, "-W", "error", "-m", "minquant.kernels"], capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr == "", done.stderr


def test_the_command_prints_one_json_object(capsys):
    kernels.main(["--json"])
    assert json.loads(capsys.readouterr().out) == kernels.info()


def test_the_table_shows_compiler_openmp_and_flags_of_the_build(monkeypatch, capsys):
    build = {"compiler": "cc 12", "platform": "linux", "openmp": False, "extensions": [],
             "flags": {"a.c": ["-O3"]}}
    monkeypatch.setattr(_kernels, "build_info", lambda: build)
    kernels.main([])
    text = capsys.readouterr().out
    assert "cc 12 on linux" in text and "no: kernels run on one thread" in text and "flags of a.c" in text
