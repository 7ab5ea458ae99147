"""Every tutorial and every solution runs in its short mode; what it asserts holds, and its picture is made."""

import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

FOLDER = Path(__file__).resolve().parents[1] / "tutorials"
TUTORIALS = sorted(path.stem for path in FOLDER.glob("[0-9][0-9]_*.py"))


@pytest.fixture
def short(tmp_path, monkeypatch):
    """A short mode whose pictures go to a folder of the test; `lesson` reads both when it is imported."""
    monkeypatch.setenv("MINQUANT_SHORT", "1")
    monkeypatch.setenv("MINQUANT_PICTURES", str(tmp_path))
    monkeypatch.syspath_prepend(FOLDER)
    monkeypatch.delitem(sys.modules, "lesson", raising=False)
    yield tmp_path
    sys.modules.pop("lesson", None)


@pytest.mark.parametrize("name", TUTORIALS)
def test_a_tutorial_runs_and_draws_its_picture(name, short):
    runpy.run_path(str(FOLDER / f"{name}.py"), run_name="__main__")
    with Image.open(short / f"{name}.png") as picture:
        assert picture.width <= 1200 and picture.convert("L").getextrema() == (0, 255)


@pytest.mark.parametrize("name", TUTORIALS)
def test_the_solution_of_its_exercise_runs(name):
    runpy.run_path(str(FOLDER / "solutions" / f"{name}.py"), run_name="__main__")


@pytest.mark.parametrize("name", TUTORIALS)
def test_a_tutorial_is_short_and_ends_with_an_exercise_and_what_to_read(name):
    text = (FOLDER / f"{name}.py").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 165 and text.startswith("# %% [markdown]\n# # ")
    exercise, reading = text.index("\n# ## Exercise\n"), text.index("\n# ## What you can now read\n")
    assert exercise < reading and f"`solutions/{name}.py`" in text[exercise:reading]
    for line in text[reading:].splitlines():
        for path in (word for word in line.split("`")[1::2] if "/" in word and "*" not in word):
            assert (FOLDER.parent / path).exists(), f"{name} sends its reader to {path}, which does not exist"


def test_the_gallery_shows_every_tutorial_in_order_and_the_pictures_are_small():
    gallery = (FOLDER / "README.md").read_text(encoding="utf-8")
    places = [gallery.index(f"({name}.py)") for name in TUTORIALS]
    assert places == sorted(places) and TUTORIALS == [f"{i:02}{name[2:]}" for i, name in enumerate(TUTORIALS, start=1)]
    for name in TUTORIALS:
        assert f"(pictures/{name}.png)" in gallery
        assert (FOLDER / "pictures" / f"{name}.png").stat().st_size < 120_000


def test_a_tutorial_is_started_with_python_alone(tmp_path):
    command = [sys.executable, str(FOLDER / f"{TUTORIALS[0]}.py")]
    environment = {**os.environ, "MINQUANT_SHORT": "1", "MINQUANT_PICTURES": str(tmp_path),
                   "PYTHONPATH": str(FOLDER.parent)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / f"{TUTORIALS[0]}.png").is_file()
