"""A Program as a folder of C99 for a board: its arrays as constants, the kernels, a main program and a Makefile.

    model.h, model.c   sizes and tables: what `_kernels/exec.h` calls a network, weights packed as in the .mqz file
    images.c           some images, to test with
    main.c, Makefile   runs them and compares a hash of all logits; README.md says how
    kernels/           the C core, unchanged
    cortex_m.*         start and memory map of a bare Cortex-M

It allocates nothing: the network is laid out in static memory whose size is known at export. The C library and, where
asked for, OpenMP's are all it needs.
"""

import math
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .. import _kernels, check
from . import executor
from .ops import Weighted

MARKER = "model.h"  # by which a folder that `write_project` made is known
BOARD = Path(__file__).parent / "board"
CORE = Path(_kernels.__file__).parent
SOURCES = ("*.h", "int_requantize.c", "gemm*.c", "codebook_*.c", "ops_*.c", "exec_*.c", "dispatch.c")
PACKED_BYTES = 1 << 18  # CHUNK_BYTES of gemm.c
NOT_NEEDED = ("gemm_run.c", "ops_run.c", "train*")  # calls that allocate; training
IMAGES = 8
LINE = 110
HASH_START, HASH_PRIME = 0xcbf29ce484222325, 0x100000001b3


def write_project(program, folder, images):
    """Write the project into `folder`, which must not exist; return its figures in bytes.

    images : uint8 (N, H, W, C); the first 8 are embedded as test, with the hash of their logits
    Figures: constants (what a board keeps in flash besides code), and the memory of the plain C kernels without
    stack, on this machine's pointers (a 32-bit board needs less).
    """
    if executor.compiled() is None:
        raise ValueError("a C project needs the compiled kernels, with which its memory is measured; "
                         "install minquant with a C compiler")
    if not len(images):
        raise ValueError("a C project needs at least one image to test with")
    table = executor.table(program)
    memory = Memory.of(program, table)
    folder.mkdir()
    (folder / "kernels").mkdir()
    for path in sorted({path for pattern in SOURCES for path in CORE.glob(pattern)}):
        if not any(path.match(pattern) for pattern in NOT_NEEDED):
            shutil.copyfile(path, folder / "kernels" / path.name)
    for path in BOARD.iterdir():
        if path.is_file():
            shutil.copyfile(path, folder / path.name)
    images = images[:IMAGES]
    texts = {"model.h": header(program, memory, images), "model.c": network(program, table),
             "images.c": embedded(images)}
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    constants = sum(array.nbytes for row in table for _, array in arrays(row))
    return {"constant_bytes": constants, "weight_memory_bytes": memory.model, "arena_bytes": memory.arena}


def check_project(program, folder, images):
    """Build a project here and run it on all images; its logits must be the program's, to the last bit."""
    expected = f"{logits_hash(program.run(images)):016x}"
    with tempfile.TemporaryDirectory() as scratch:
        copy, pixels = Path(scratch, "project"), Path(scratch, "images")
        shutil.copytree(folder, copy)
        pixels.write_bytes(np.ascontiguousarray(images).tobytes())
        _run("make", f"-j{_kernels.default_threads()}", folder=copy)
        said = _run("./model", pixels, folder=copy).splitlines()
    if said[-1] != f"hash {expected}":
        raise check.BitExactError(f"the C project says '{said[-1]}' after {len(images)} images, the program's logits "
                                  f"have the hash {expected}")
    return {"images": len(images), "hash": expected, "mismatches": 0}


def _run(*command, folder):
    """Standard output of a command; ValueError with what it complained about."""
    try:
        done = subprocess.run(list(map(str, command)), cwd=folder, capture_output=True, text=True)
    except FileNotFoundError:
        raise ValueError(f"the check needs {command[0]}; Debian: apt-get install make gcc") from None
    if done.returncode:
        raise ValueError(f"'{' '.join(map(str, command))}' failed: {done.stderr.strip()[-2000:]}")
    return done.stdout


def logits_hash(logits):
    """FNV-1a, 64 bits, over the little-endian bytes of float64 logits: what main.c prints.

    >>> hex(logits_hash(np.zeros(0)))
    '0xcbf29ce484222325'
    """
    value = HASH_START
    for byte in np.ascontiguousarray(logits, "<f8").tobytes():
        value = (value ^ byte) * HASH_PRIME & 0xffffffffffffffff
    return value


class Memory(NamedTuple):
    """Bytes of static memory: `model` and `arena` of the plain C kernels with one thread, of it `thread` for that
    thread; `wide_*`: how much more any kernels with vectors may need, whose panels have up to 64 columns,
    and which may pack rows."""

    model: int
    arena: int
    thread: int
    wide_model: int
    wide_thread: int

    @classmethod
    def of(cls, program, table):
        """Measured by the executor for the plain C kernels; for vectors by what their panels are rounded up to."""
        built = executor.compiled().Executor(tuple(program.image_shape), table, "generic")
        arena, panels, largest, packed = built.arena_bytes(1, 1), 0, 0, 0
        for op in program.ops:
            if isinstance(op, Weighted):
                groups = getattr(op, "groups", 1)
                segments = 1 if len(op.shape) == 2 else op.shape[0] ** (1 if groups == 1 else 2)
                depth = int(np.prod(op.shape[:-1])) + 64 * segments
                panels += groups * depth * (op.shape[-1] // groups + 64)
                largest = max(largest, 64 * depth)
                if len(op.shape) == 4 and op.shape[0] == 1:  # whose rows may be packed (gemm.c)
                    packed = max(packed, PACKED_BYTES + 128 * (op.shape[2] + 128))
        return cls(built.nbytes, arena, built.arena_bytes(1, 2) - arena, panels, largest + packed)


def header(program, memory, images):
    """model.h"""
    height, width, channels = program.image_shape
    logits = int(np.prod(program.tensors[-1].shape))
    facts = ", ".join(f"{key} {value}" for key, value in program.info.items() if isinstance(value, (str, int)))
    return f"""/* {comment(facts) or "A network"}: {program.macs():,} multiply-accumulates per image. */
#ifndef MODEL_H
#define MODEL_H
#include "exec.h"

#define MODEL_HEIGHT {height}
#define MODEL_WIDTH {width}
#define MODEL_CHANNELS {channels}
#define MODEL_PIXELS (MODEL_HEIGHT * MODEL_WIDTH * MODEL_CHANNELS) /* uint8 each, channels innermost */
#define MODEL_LOGITS {logits}
extern const exec_network model;
extern const char *const model_classes[MODEL_LOGITS];

/* Static memory: the network in the layout of an instruction set, and activations of one image. Plain C needs no
 * more than the first; kernels with vectors round their panels up, by how much is bounded, and memory that is not
 * touched is never there on a system with pages. exec_bytes and exec_arena_bytes say what is needed. */
#if defined(__aarch64__) || defined(__x86_64__)
#define MODEL_BYTES ({memory.model} + {memory.wide_model})
#define MODEL_ARENA(threads) ({memory.arena - memory.thread} + (threads) * ({memory.thread} + {memory.wide_thread}))
#else
#define MODEL_BYTES {memory.model}
#define MODEL_ARENA(threads) ({memory.arena - memory.thread} + (threads) * {memory.thread})
#endif

/* Images to test with (images.c), and the FNV-1a hash of their logits. */
#define MODEL_IMAGES {len(images)}
extern const uint8_t model_images[MODEL_IMAGES][MODEL_PIXELS];
#define MODEL_HASH_START UINT64_C(0x{HASH_START:016x})
#define MODEL_HASH UINT64_C(0x{logits_hash(program.run(images)):016x})

#endif
"""


def network(program, table):
    """model.c: the arrays of every operation, then the table of exec.h."""
    parts, entries = ['#include "model.h"\n#include <math.h>\n'], []
    for index, (op, row) in enumerate(zip(program.ops, table, strict=True)):
        title = f"{index + 1}: {comment(op.name)}, {row['kind']}"
        parts.append(f"/* {title} */")
        parts += [constant(f"op{index + 1}_{name}", array) for name, array in arrays(row)]
        entries.append(f"    /* {title} */\n    {{{', '.join(initialisers(row, f'op{index + 1}'))}}},")
    height, width, channels = program.image_shape
    classes = class_names(program)
    parts += ["static const exec_op ops[] = {", *(wrapped(entry) for entry in entries), "};\n",
              f"const exec_network model = {{{height}, {width}, {channels}, {len(table)}, ops}};\n",
              wrapped(f"const char *const model_classes[MODEL_LOGITS] = {{{', '.join(map(quoted, classes))}}};"), ""]
    return "\n".join(parts)


def arrays(row):
    """(name, array) of a row of the table, those with something in them."""
    return [(name, value) for name, value in row.items() if isinstance(value, np.ndarray) and value.size]


def initialisers(row, prefix):
    """The fields of one exec_op, `.name = value`, of a row of the table; what is 0 or absent is left out."""
    counts = {"level_count": "levels", "input_count": "input_levels", "factors": "multiplier",
              "shortcut_count": "shortcut", "steps": "arithmetic", "operand_count": "operands"}
    height, width, channels = row["shape"]
    kernel_h, kernel_w = row.get("kernel", (0, 0))
    numbers = {"height": height, "width": width, "channels": channels, "kernel_h": kernel_h, "kernel_w": kernel_w,
               **{name: value for name, value in row.items() if isinstance(value, int)},
               **{field: len(row.get(array, ())) for field, array in counts.items()}}
    kind = re.sub("(?<=[a-z])(?=[A-Z])", "_", row["kind"]).upper()
    return [f".kind = EXEC_{kind}", f".inputs = {{{', '.join(map(str, row['inputs']))}}}",
            *(f".{name} = {value}" for name, value in numbers.items() if value),
            *(f".{name} = {prefix}_{name}" for name, _ in arrays(row))]


def embedded(images):
    """images.c"""
    rows = ",\n".join("    {" + wrapped(", ".join(map(str, image.ravel())), indent="     ").strip() + "}"
                      for image in images)
    return f'#include "model.h"\n\nconst uint8_t model_images[MODEL_IMAGES][MODEL_PIXELS] = {{\n{rows}}};\n'


TYPES = {"B": "uint8_t", "b": "int8_t", "h": "int16_t", "i": "int32_t", "f": "float", "d": "double"}
ROW = {"B": 22, "b": 18, "h": 16, "i": 10, "f": 8, "d": 5}  # values in a line


def constant(name, array):
    """The definition of a constant C array, flat."""
    kind = array.dtype.char
    values = [literal(value, kind) for value in array.ravel().tolist()]
    rows = ",\n    ".join(", ".join(values[i:i + ROW[kind]]) for i in range(0, len(values), ROW[kind]))
    return f"static const {TYPES[kind]} {name}[] = {{\n    {rows}}};"


def literal(value, kind):
    """A C constant of exactly this value: nine and seventeen digits identify float32 and float64."""
    if kind not in "fd":
        return f"(-{-value - 1} - 1)" if value == -2 ** 31 else str(value)
    if math.isinf(value):
        return "HUGE_VAL" if value > 0 else "-HUGE_VAL"
    text = f"{value:.9g}" if kind == "f" else f"{value:.17g}"
    return text + ("" if set(text) & set(".e") else ".0") + ("f" if kind == "f" else "")


def wrapped(text, indent="    "):
    """Text broken between values into lines of the usual length."""
    lines, line = [], ""
    for word in re.split(r"(?<=,) ", text):
        if line and len(line) + 1 + len(word) > LINE:
            lines.append(line)
            line = indent + word
        else:
            line = f"{line} {word}" if line else word
    return "\n".join([*lines, line])


def comment(text):
    """Text that cannot end a C comment, of a length that can be read."""
    return re.sub(r"[^\w .,:+-]", "?", str(text), flags=re.ASCII)[:300]


def quoted(text):
    """A C string: what is not plain ASCII as octal bytes."""
    plain = (chr(byte) if 32 <= byte < 127 and chr(byte) not in '"\\?' else f"\\{byte:03o}" for byte in text.encode())
    return '"' + "".join(plain) + '"'


def class_names(program):
    """What each logit stands for: the program's classes, else numbers."""
    count = int(np.prod(program.tensors[-1].shape))
    named = program.info.get("classes")
    fits = isinstance(named, list) and len(named) == count
    return [str(name)[:100] for name in named] if fits else list(map(str, range(count)))
