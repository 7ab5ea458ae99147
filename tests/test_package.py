"""The build: one version, one table of extensions, clear failures, nothing of the building machine inside."""
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from fnmatch import fnmatch
from pathlib import Path

import pytest

import minquant
from minquant import _kernels

ROOT = Path(__file__).parents[1]
KERNELS = Path("minquant/_kernels")

TINY_WRAPPER = """cdef extern from "{name}_tiny.h":
    int {name}_threads()
def threads():
    return {name}_threads()
"""
TINY_CORE = """#include "{name}_tiny.h"
#ifdef _OPENMP
#include <omp.h>
int {name}_threads(void) {{ return omp_get_max_threads(); }}
#else
int {name}_threads(void) {{ return 0; }}
#endif
"""


def load_setup():
    spec = importlib.util.spec_from_file_location("minquant_setup", ROOT / "setup.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def tree(tmp_path):
    """A source tree with the real setup.py and, for each row of its table, an extension of a few lines."""
    kernels = tmp_path / "tree" / KERNELS
    kernels.mkdir(parents=True)
    for name in ("setup.py", "minquant/_kernels/__init__.py"):
        shutil.copy(ROOT / name, tmp_path / "tree" / name)
    version, = re.findall(r'^__version__ = .*$', (ROOT / "minquant/__init__.py").read_text(), re.MULTILINE)
    (tmp_path / "tree/minquant/__init__.py").write_text(version + "\n")
    (tmp_path / "tree" / "README.md").write_text("# tiny\n")
    for name, (wrapper, patterns) in load_setup().EXTENSIONS.items():
        (kernels / wrapper).write_text(TINY_WRAPPER.format(name=name))
        (kernels / f"{name}_tiny.h").write_text(f"int {name}_threads(void);\n")
        (kernels / patterns[0].replace("*", "tiny")).write_text(TINY_CORE.format(name=name))
        for pattern in patterns:
            (kernels / pattern.replace("*", "tiny_avx2")).write_text("typedef int nothing;\n")
    return tmp_path / "tree"


def run_setup(tree, *arguments, **environment):
    inherited = {key: value for key, value in os.environ.items()
                 if key not in ("CC", "MINQUANT_NO_EXTENSIONS")}
    return subprocess.run([sys.executable, "setup.py", *arguments], cwd=tree, capture_output=True, text=True,
                          stdin=subprocess.DEVNULL, env={**inherited, **environment})


def build(tree, **environment):
    """Build in place; returns the record and what the first extension says of its threads."""
    done = run_setup(tree, "build_ext", "--inplace", **environment)
    assert done.returncode == 0, done.stdout + done.stderr
    record = json.loads((tree / KERNELS / "_build_info.json").read_text())
    code = f"from minquant._kernels import {record['extensions'][0]} as first; print(first.threads())"
    said = subprocess.run([sys.executable, "-c", code], cwd=tree, capture_output=True, text=True,
                          env={**os.environ, "PYTHONPATH": str(tree)})
    assert said.returncode == 0, said.stderr
    return record, int(said.stdout), done.stdout


def compiler_that_refuses(tmp_path, pattern, message):
    """A C compiler that fails where an argument, or the text of a source, matches the pattern."""
    script = tmp_path / "cc"
    script.write_text(f"""#!/bin/sh
for a; do
  if {{ echo "$a"; case $a in *.c) cat "$a";; esac; }} | grep -q -e '{pattern}'
  then echo "error: {message}" >&2; exit 1; fi
done
exec cc "$@"
""")
    script.chmod(0o755)
    return str(script)


def machine_paths(modules):
    """Paths of the building machine inside binaries: its folders, anybody's home, Python's headers."""
    data = b"".join(path.read_bytes() for path in modules)
    needles = [str(ROOT), tempfile.gettempdir() + "/", sysconfig.get_path("include")]
    homes = re.findall(rb"/(?:home|root|Users)/\w+", data)
    return [needle for needle in needles if needle.encode() in data] + homes


def test_the_version_is_written_in_one_place(monkeypatch):
    monkeypatch.chdir(ROOT)
    assert load_setup().version() == minquant.__version__
    for name in ("setup.py", "pyproject.toml"):
        assert minquant.__version__ not in (ROOT / name).read_text()


def test_every_kernel_source_belongs_to_a_row_of_the_build_table():
    rows = load_setup().EXTENSIONS.values()
    patterns = [pattern for wrapper, sources in rows for pattern in (wrapper, *sources)]
    sources = [path.name for path in (ROOT / KERNELS).iterdir() if path.suffix in (".c", ".pyx")]
    assert [name for name in sources if not any(fnmatch(name, pattern) for pattern in patterns)] == []


def test_modules_of_this_tree_hold_no_path_of_the_building_machine():
    recorded = _kernels.build_info().get("extensions", [])  # empty where setup.py has not built in this tree
    modules = [path for name in recorded for path in (ROOT / KERNELS).glob(f"{name}.*so")]
    assert machine_paths(modules) == []


def test_a_build_uses_the_flags_of_its_table_and_leaves_no_path_behind(tree):
    record, threads, output = build(tree, CC="cc")
    for flags in record["flags"].values():
        assert "-O3" in flags and "-ffp-contract=off" in flags and "-ffast-math" not in flags
    vector = next(flags for source, flags in record["flags"].items() if source.endswith("_avx2.c"))
    assert ("-mavx2" in vector) == ("x86_64" in record["platform"] or "amd64" in record["platform"])
    assert ("OpenMP yes" in output) == record["openmp"] == (threads > 0)
    modules = list((tree / KERNELS).glob("*.so"))
    assert len(modules) == len(record["extensions"])
    assert machine_paths(modules) == []


def test_a_compiler_without_openmp_builds_single_threaded_kernels_and_says_so(tree, tmp_path):
    without = compiler_that_refuses(tmp_path, "fopenmp", "unsupported option -fopenmp")
    record, threads, output = build(tree, CC=without)
    assert record["openmp"] is False and threads == 0 and "OpenMP no" in output


def test_another_compiler_rebuilds_what_the_first_one_made(tree, tmp_path):
    without = compiler_that_refuses(tmp_path, "mavx2", "unsupported option -mavx2")
    first, _, _ = build(tree, CC=without)
    assert not any("-mavx2" in flags for flags in first["flags"].values())
    _, _, output = build(tree, CC=without)
    assert "_tiny.c" not in output
    _, _, output = build(tree, CC=compiler_that_refuses(tmp_path, "fopenmp", "unsupported option -fopenmp"))
    assert "_tiny.c" in output


def test_a_missing_compiler_fails_with_one_line_that_says_what_to_install(tree):
    done = run_setup(tree, "build_ext", "--inplace", CC="/nonexistent/cc")
    assert done.returncode != 0
    [line] = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    for part in ("/nonexistent/cc", "apt install build-essential", "xcode-select --install",
                 "MINQUANT_NO_EXTENSIONS=1"):
        assert part in line
    assert "Traceback" not in done.stderr


def test_missing_python_headers_are_told_apart_from_a_missing_compiler(tree, tmp_path):
    headless = compiler_that_refuses(tmp_path, "Python[.]h", "Python.h: No such file or directory")
    done = run_setup(tree, "build_ext", "--inplace", CC=headless)
    assert done.returncode != 0
    assert "apt install python3-dev" in done.stderr and "build-essential" not in done.stderr


def test_an_incomplete_source_tree_names_the_missing_file(tree):
    for path in (tree / KERNELS).glob("*.c"):
        path.unlink()
    done = run_setup(tree, "build_ext")
    assert done.returncode != 0
    assert "no file matches minquant/_kernels/" in done.stderr


def test_without_extensions_the_package_builds_where_no_compiler_is(tree):
    done = run_setup(tree, "build", CC="/nonexistent/cc", MINQUANT_NO_EXTENSIONS="1")
    assert done.returncode == 0, done.stderr
    built = {path for path in (tree / "build").rglob("*") if path.is_file()}
    assert {path.name for path in built if path.suffix not in (".c", ".h")} == {"__init__.py"}  # sources: export --to c
