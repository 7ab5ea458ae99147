"""The C project: built by its Makefile for several processors, it gives the logits of the Program, to the last bit.

Needs make and compilers; cross compilers and QEMU for ARM. Where those are missing only this machine is tried; with
MINQUANT_REQUIRE_ARM=1 that is a failure. Bare Cortex-M boards are tried where their tool chain is there.
"""

import os
import shutil
import subprocess

import numpy as np
import pytest

from minquant.deploy import c_project, lower
from tests.deploy_models import DIGITS, stored_model
from tests.test_deploy_concat import dense

# What the executor has a way of its own for: ladders, additions in float32 and float64, depthwise, codebooks; and a
# concatenation, some of it through tables.
NETWORKS = {"lenet5": ("lenet5", "cpq", 4), "resnet20": ("resnet20", "minmax", 2), "float64": ("resnet20", "minmax", 8),
            "depthwise": ("mobilenet_tiny", "lsq", 3), "codebook": ("mlp", "dgms", 4)}
ARM = {
    "aarch64-linux-gnu-gcc": [("qemu-aarch64 -cpu cortex-a53 -L /usr/aarch64-linux-gnu", "neon"),
                              ("qemu-aarch64 -cpu cortex-a76 -L /usr/aarch64-linux-gnu", "neon_dotprod"),
                              ("qemu-aarch64 -cpu max,sve=off -L /usr/aarch64-linux-gnu", "neon_i8mm")],
    "arm-linux-gnueabihf-gcc": [("qemu-arm -cpu cortex-a7 -L /usr/arm-linux-gnueabihf", "generic")],
}
PACKAGES = {"aarch64-linux-gnu-gcc": "gcc-aarch64-linux-gnu libc6-dev-arm64-cross", "qemu-aarch64": "qemu-user",
            "arm-linux-gnueabihf-gcc": "gcc-arm-linux-gnueabihf libc6-dev-armhf-cross", "qemu-arm": "qemu-user",
            "clang": "clang"}
BOARDS = ["mps2-an385", "mps2-an386", "mps2-an500"]
IMAGES = DIGITS.test.images[:20]


def found(*tools):
    """Whether the tools are here; where MINQUANT_REQUIRE_ARM=1 they must be."""
    missing = [tool for tool in tools if shutil.which(tool) is None]
    if missing and os.environ.get("MINQUANT_REQUIRE_ARM") == "1":
        names = " ".join(sorted({PACKAGES[tool] for tool in missing}))
        pytest.fail(f"{', '.join(missing)} not found; Debian: apt-get install {names}")
    return not missing


@pytest.fixture(scope="module")
def programs():
    models = {**{name: stored_model(*what) for name, what in NETWORKS.items()}, "concat": dense()}
    return {name: lower(model, DIGITS.image_shape, DIGITS.normalise, {"data": "digits"})
            for name, model in models.items()}


@pytest.fixture(scope="module")
def projects(programs, tmp_path_factory):
    """{name: (folder, hash of the logits of its images)}"""
    folder, made = tmp_path_factory.mktemp("projects"), {}
    for i, (name, program) in enumerate(programs.items()):
        c_project.write_project(program, folder / str(i), IMAGES)
        made[name] = folder / str(i), f"{c_project.logits_hash(program.run(IMAGES[:8])):016x}"
    return made


def make(folder, *arguments):
    done = subprocess.run(["make", "-j2", *arguments], cwd=folder, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def build_and_run(projects, folder, settings, runs):
    """Build every project in turn in one folder, where objects of the kernels serve all; check each run's hash."""
    shutil.copytree(projects["lenet5"][0], folder)
    for name, (project, expected) in projects.items():
        for file in ("model.h", "model.c", "images.c"):
            shutil.copy(project / file, folder)
        status, said = make(folder, *settings, "model")
        assert status == 0 and "warning" not in said, said
        for emulator, isa in runs:
            status, said = make(folder, *settings, f"RUN={emulator}", "test")
            assert status == 0 and f"hash {expected}\n" in said, f"{name}, {emulator}: {said}"
            assert f"{isa}: weights in " in said


def test_this_machine_gives_the_logits_of_the_program(projects, tmp_path):
    build_and_run(projects, tmp_path / "build", ["WARNINGS=-Wall -Wextra -Wconversion -Werror"], [("", "")])


@pytest.mark.parametrize("compiler", ARM)
def test_arm_processors_give_the_logits_of_the_program(projects, compiler, tmp_path):
    runs = ARM[compiler]
    if found(compiler, runs[0][0].split()[0]):
        build_and_run(projects, tmp_path / "build", [f"CC={compiler}"], runs)


def test_clang_takes_the_project_without_a_warning(projects, tmp_path):
    if found("clang"):
        folder = shutil.copytree(projects["resnet20"][0], tmp_path / "build")
        status, said = make(folder, "CC=clang", "CFLAGS=-O1", "test")
        assert status == 0 and "warning" not in said, said


@pytest.fixture(scope="module")
def sanitized(projects, tmp_path_factory):
    """{name: folder} of projects built with the address sanitizer. Objects of the kernels serve all."""
    shared = shutil.copytree(projects["depthwise"][0], tmp_path_factory.mktemp("sanitized") / "build")
    settings = "CFLAGS=-O1 -fsanitize=address,undefined -fno-sanitize-recover", "OPENMP=2"
    folders = {}
    for name, (project, _) in projects.items():
        for file in ("model.h", "model.c", "images.c"):
            shutil.copy(project / file, shared)
        status, said = make(shared, *settings, "model")
        assert status == 0, said
        folders[name] = shared.parent / name
        folders[name].mkdir()
        shutil.copy(shared / "model", folders[name])
    return folders


def run(folder, *arguments):
    """Exit status, output and complaint of a project's program."""
    done = subprocess.run(["./model", *arguments], cwd=folder, capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("threads", ["1", "2"])
@pytest.mark.parametrize("name", [*NETWORKS, "concat"])
def test_the_address_sanitizer_finds_nothing(projects, sanitized, name, threads):
    status, said, complaint = run(sanitized[name], "-t", threads, "-r", "2")
    assert status == 0 and said.endswith(f"hash {projects[name][1]}\n"), complaint


@pytest.mark.parametrize("board", [b for b in BOARDS if shutil.which("arm-none-eabi-gcc") and
                                   shutil.which("qemu-system-arm")] or [None])
def test_bare_boards_give_the_logits_of_the_program_where_their_tools_are(projects, board, tmp_path):
    if board:
        folder, expected = projects["lenet5"]
        status, said = make(shutil.copytree(folder, tmp_path / "build"), f"BOARD={board}", "test")
        assert status == 0 and f"hash {expected}\n" in said and "warning" not in said, said


def test_the_program_reads_pictures_and_raw_images_and_refuses_others(sanitized, programs):
    folder = sanitized["depthwise"]
    raw = folder / "raw"
    (folder / "picture.pgm").write_bytes(b"P5\n8 8\n255\n" + IMAGES[0].tobytes())
    (folder / "wide.pgm").write_bytes(b"P5\n9 8\n255\n" + bytes(72))
    raw.write_bytes(IMAGES.tobytes())
    for name, images in (("picture.pgm", IMAGES[:1]), ("raw", IMAGES)):
        status, said, _ = run(folder, name)
        logits = programs["depthwise"].run(images)
        assert status == 0 and said.endswith(f"hash {c_project.logits_hash(logits):016x}\n")
        assert [int(line.split()[2]) for line in said.splitlines()[1:-1]] == logits.argmax(1).tolist()
    raw.write_bytes(IMAGES.tobytes()[:-1])
    for arguments in (["raw"], ["wide.pgm"], ["absent"], ["-t", "0"], ["-t", "3"], ["-r", "x"], ["-x"]):
        status, _, complaint = run(folder, *arguments)
        assert status == 2 and arguments[-1] in complaint and complaint.count("\n") == 1


def test_a_missing_compiler_or_board_is_named_with_its_package(projects):
    folder = projects["lenet5"][0]
    for setting, complaint in (("CC=no-such-gcc", "no-such-gcc not found"), ("BOARD=mps9", "BOARD=mps9 is not one of")):
        status, said = make(folder, setting)
        assert status != 0 and complaint in said
    done = subprocess.run([shutil.which("make"), "CC=aarch64-linux-gnu-gcc"], cwd=folder, env={"PATH": ""}, text=True,
                          capture_output=True)
    assert "aarch64-linux-gnu-gcc not found; Debian: apt-get install gcc-aarch64-linux-gnu" in done.stderr


def test_a_weight_or_factor_in_the_source_is_the_same_number_to_the_last_bit(programs):
    values = np.float32([0.1, -1e-30, 3, 16777216, 1 / 3])
    text = c_project.constant("x", values)
    assert text.startswith("static const float x[] = {\n") and text.endswith("f};")
    assert np.array_equal(np.float32([word.strip().rstrip("f") for word in text[26:-2].split(",")]), values)
    assert c_project.literal(0.1, "d") == "0.10000000000000001"
    assert c_project.literal(-np.inf, "d") == "-HUGE_VAL"
    assert c_project.literal(-2 ** 31, "i") == "(-2147483647 - 1)"


def test_names_cannot_leave_comments_and_strings():
    assert "*/" not in c_project.comment("*/ int main(void) {")
    assert c_project.quoted('a"\\?é') == '"a\\042\\134\\077\\303\\251"'


def test_without_images_or_kernels_nothing_is_written(programs, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="at least one image"):
        c_project.write_project(programs["lenet5"], tmp_path / "c", IMAGES[:0])
    monkeypatch.setattr(c_project.executor, "compiled", lambda: None)
    with pytest.raises(ValueError, match="compiled kernels"):
        c_project.write_project(programs["lenet5"], tmp_path / "c", IMAGES)
    assert not list(tmp_path.iterdir())
