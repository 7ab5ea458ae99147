"""The README keeps its word: its commands run, its files exist."""

import importlib.util
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")


def set_up_commands():
    """The fenced bash blocks under the heading 'Set up', one command each."""
    section = TEXT.split("\n## Set up\n")[1].split("\n## ")[0]
    return [block.strip() for block in re.findall(r"```bash\n(.*?)```", section, re.DOTALL)]


def test_there_are_exactly_two_set_up_commands_of_one_line_each():
    assert len(set_up_commands()) == 2 and all("\n" not in command for command in set_up_commands())


def test_both_commands_start_from_nothing_and_install_this_package():
    for command, install in zip(set_up_commands(), ("pip install -e .", 'pip install -e ".[test]"')):
        steps = [step.strip() for step in command.split("&&")]
        assert steps[0] == "python3 -m venv .venv" and steps[1] == ". .venv/bin/activate" and steps[2] == install
    assert set_up_commands()[1].endswith("python -m pytest")


def test_the_main_job_runs_as_written_and_prints_what_the_readme_says(tmp_path):
    job = set_up_commands()[0].split("&&")[-1].strip()
    words = shlex.split(job)
    assert words[:3] == ["python", "-m", "minquant.train"]
    done = subprocess.run([sys.executable, *words[1:]], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "\n## What it prints\n" in TEXT
    expected = TEXT.split("\n## What it prints\n")[1].split("```")[1].splitlines()[1:]
    closing = r"(float accuracy|quantized accuracy|model size|activations|files|integer program|checked) "
    labels = [line.split("  ")[0] for line in expected if re.match(closing, line)]
    assert len(labels) == 7
    for label in labels:
        assert label in done.stdout
    accuracy = float(re.search(r"quantized accuracy +([\d.]+)%", done.stdout).group(1))
    assert accuracy > 90
    folder = tmp_path / re.search(r"files +(\S+)/ ", done.stdout).group(1)
    assert (folder / "report.json").is_file() and (folder / "plots" / "weights.png").is_file()
    size = int(re.search(r"integer program +\S+, ([\d,]+) bytes", done.stdout).group(1).replace(",", ""))
    assert (folder / "model.mqz").stat().st_size == size


NAMED = re.findall(r"(?:\]\(|`)((?:minquant|tests|results|tools|tutorials|docs)/[\w./-]*|CONTRIBUTING\.md|LICENSE)",
                   TEXT)


@pytest.mark.parametrize("path", sorted(set(NAMED)))
def test_every_file_the_readme_names_exists(path):
    assert (ROOT / path).exists()


def test_the_picture_is_in_the_repository():
    pictures = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", TEXT)
    assert pictures and all((ROOT / picture).is_file() for picture in pictures)


def test_every_python_command_of_the_readme_names_a_verb_that_exists():
    for module in re.findall(r"python -m (minquant[.\w]*)", TEXT):
        path = ROOT / module.replace(".", "/")
        assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file(), module


def test_every_link_leads_to_a_file_or_a_heading():
    headings = {re.sub(r"[^\w -]", "", line[3:].lower()).replace(" ", "-")
                for line in TEXT.splitlines() if line.startswith("## ")}
    for target in re.findall(r"\]\(([^)]+)\)", TEXT):
        assert target.removeprefix("#") in headings if target.startswith("#") else (ROOT / target).exists(), target


def test_the_table_of_methods_is_that_of_the_results():
    spec = importlib.util.spec_from_file_location("readme_table", ROOT / "tools" / "readme_table.py")
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    assert "| method | 4 bits" in TEXT and tool.updated(TEXT) == TEXT, "run python tools/readme_table.py"
    assert tool.updated(TEXT.replace("| `dgms` | ", "| `dgms` | 1")) == TEXT


def test_the_five_papers_can_be_cited():
    entries = re.findall(r"@\w+\{(\w+), title=", TEXT)
    assert [re.sub(r"^[a-z]+\d+", "", entry) for entry in entries] == ["dgms", "gdrq", "cpq", "qnet", "dq"]


def test_the_readme_is_short():
    assert len(TEXT.splitlines()) <= 200
