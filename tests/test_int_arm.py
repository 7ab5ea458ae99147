"""The integer kernels for ARM, cross-compiled and run on emulated processors against the naive loops.

Needs a cross compiler and QEMU. Where they are missing only the sources are checked, to leave other machines
alone; with MINQUANT_REQUIRE_ARM=1 that is a failure.
"""
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
KERNELS = ROOT / "minquant/_kernels"
TOOLS = ["aarch64-linux-gnu-gcc", "qemu-aarch64", "arm-linux-gnueabihf-gcc", "qemu-arm"]
PACKAGES = "gcc-aarch64-linux-gnu libc6-dev-arm64-cross gcc-arm-linux-gnueabihf libc6-dev-armhf-cross qemu-user"
EXPECTED = {"cortex-a53": ["neon", "generic"],
            "cortex-a76": ["neon_dotprod", "neon", "generic"],
            "max,sve=off": ["neon_i8mm", "neon_dotprod", "neon", "generic"],
            "cortex-a7": ["generic"]}


def missing_tools():
    return [tool for tool in TOOLS if shutil.which(tool) is None]


@pytest.fixture(scope="module")
def emulated():
    """{processor: {instruction set: hash of its results}}; empty where tools are missing, not required."""
    if missing := missing_tools():
        if os.environ.get("MINQUANT_REQUIRE_ARM") == "1":
            pytest.fail(f"{', '.join(missing)} not found; Debian: apt-get install {PACKAGES}")
        return {}
    done = subprocess.run([ROOT / "tools/arm/test.sh"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    results = {cpu: {} for cpu in EXPECTED}
    for line in done.stdout.splitlines():
        cpu, isa, digest = line.split()
        results[cpu][isa] = digest
    return results


def test_every_processor_runs_each_instruction_set_it_has_best_first(emulated):
    assert {cpu: list(hashes) for cpu, hashes in emulated.items()} == (EXPECTED if emulated else {})


def test_results_are_equal_on_every_processor_and_on_this_machine(emulated, tmp_path):
    hashes = {digest for results in emulated.values() for digest in results.values()}
    if emulated:
        program = tmp_path / "test_int"
        done = subprocess.run([ROOT / "tools/arm/build.sh", ROOT / "tests/c/test_int.c", program], text=True,
                              capture_output=True, env={**os.environ, "CC": "cc"})
        assert done.returncode == 0, done.stderr
        lines = subprocess.run([program], capture_output=True, text=True, check=True).stdout.splitlines()
        hashes |= {line.split()[1] for line in lines}
    assert len(hashes) == (1 if emulated else 0)


@pytest.mark.parametrize("name", ["gemm_neon", "gemm_neon_dotprod", "gemm_neon_i8mm"])
def test_other_machines_compile_an_arm_file_to_a_null_pointer(name):
    source = (KERNELS / f"{name}.c").read_text()
    isa = name.replace("gemm", "int_isa")
    guard = re.search(r"^#if defined\(__aarch64__\).*?^#else\n(.*?)^#endif$", source, re.M | re.S)
    assert guard and guard[1] == f"const int_isa *const {isa} = NULL;\n"
    assert "arm_neon.h" not in source[:guard.start()]


def run_tool(name, *arguments, **environment):
    """Exit status and what a script of tools/arm complains about."""
    done = subprocess.run([ROOT / "tools/arm" / name, *arguments], capture_output=True, text=True,
                          env={**os.environ, "PYTHON": sys.executable, **environment})
    return done.returncode, done.stderr


def test_a_sysroot_is_not_unpacked_over_a_folder_nor_for_a_python_that_debian_has_not(tmp_path):
    assert run_tool("sysroot.sh", tmp_path) == (
        1, f"sysroot.sh: {tmp_path} exists already; remove it or name another folder\n")
    other = tmp_path / "python"
    other.write_text("#!/bin/sh\necho 3.4\n")
    other.chmod(0o755)
    status, said = run_tool("sysroot.sh", tmp_path / "new", PYTHON=str(other))
    assert status == 1 and "Python 3.4, which no Debian release has" in said and not (tmp_path / "new").exists()


def test_a_wheel_is_not_built_without_a_sysroot(tmp_path):
    status, said = run_tool("wheel.sh", tmp_path, tmp_path / "wheel")
    assert status == 1 and "tools/arm/sysroot.sh" in said and not (tmp_path / "wheel").exists()


def test_a_count_that_grew_by_more_than_two_percent_is_refused_by_name():
    count = runpy.run_path(str(ROOT / "tools/arm/count.py"))
    table = "instructions per multiply-accumulate"
    stored = {"compiler": "gcc 12", table: {"neon": 1.0, "generic": 2.0}}
    count["compare"]({"compiler": "gcc 12", table: {"neon": 1.02, "generic": 1.5}}, stored, "stored.json")
    for figures, complaint in (({"neon": 1.03, "generic": 2.0}, "'neon' grew from 1.0 to 1.03"),
                               ({"neon": 1.0}, "'generic' is gone"),
                               ({"neon": 1.0, "generic": 2.0, "naive": 1.0}, "'naive' is new")):
        with pytest.raises(SystemExit, match=complaint):
            count["compare"]({"compiler": "gcc 12", table: figures}, stored, "stored.json")


def test_the_stored_counts_name_each_kernel_and_width_that_is_counted():
    count = runpy.run_path(str(ROOT / "tools/arm/count.py"))
    stored = json.loads((ROOT / "results/arm_instructions.json").read_text())
    names = {" ".join(name.split()[:2]) for name in stored["instructions per multiply-accumulate"]}
    assert names == {f"{kernel} {width.split()[0]}" for kernel, widths in count["KERNELS"].items() for width in widths}
