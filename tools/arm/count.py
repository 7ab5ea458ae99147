#!/usr/bin/env python3
"""Executed instructions per multiply-accumulate of each kernel on 64-bit ARM, counted by QEMU.

    python tools/arm/count.py                 print them
    python tools/arm/count.py --check FILE    and fail where a figure is more than 2 % above that of FILE
    python tools/arm/count.py --write FILE    and store them

Whole calls are counted: copies, decoding and stores are in. The counts are the same in every run and say nothing of
caches, or of how long an instruction takes. They depend on the compiler, whose name is stored with them.

No product takes fewer than its multiplications alone: usmmla multiplies 32 pairs (1/32 = 0.03125), sdot 16 (0.0625),
smlal 8 into sums of 16 bits (0.125; with weights of 8 bits smull, smlal2 and sadalp for 16: 0.1875), mla 16 into sums
of 8 bits (0.0625, for 2 x 2 bits). The rest is loads of a tile: with sdot 6 rows and 16 columns take 6 loads and 6 eor
of activations, and 8 loads of weights, for 96 products (0.0755); with usmmla 6 loads and 6 zip, and 8, for 48 (0.0443).

Debian: apt-get install gcc gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user
"""
import argparse
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

TOOLS = Path(__file__).resolve().parent
COMPILER, EMULATOR = "aarch64-linux-gnu-gcc", "qemu-aarch64"
PACKAGES = {"gcc": "gcc", COMPILER: "gcc-aarch64-linux-gnu libc6-dev-arm64-cross", EMULATOR: "qemu-user"}
ALLOWED_GROWTH = 1.02

# Label -> (bits of weights, largest magnitude of a level, greatest activation). 8 bits up to 127 spare plain NEON the
# case (-128)(-128). AxB-bit: weights of A bits, activations of B bits, else 8.
WIDTHS = {"8-bit": (8, 127, 255), "8-bit to -128": (8, 128, 255), "4-bit": (4, 8, 255), "2-bit": (2, 2, 255),
          "8x4-bit": (8, 128, 15), "4x4-bit": (4, 8, 15), "2x4-bit": (2, 2, 15), "2x2-bit": (2, 2, 3),
          "1x2-bit": (1, 1, 3)}
KERNELS = {"float32": ["8-bit"], "naive": ["8-bit"], "generic": ["8-bit", "4-bit", "2-bit"], "neon": list(WIDTHS),
           "neon_dotprod": ["8-bit", "4-bit", "2-bit"], "neon_i8mm": ["8-bit", "4-bit", "2-bit"]}
# m x k x n: inner layers of a small network, of a large one, and a linear layer.
PRODUCTS = [(60, 576, 64), (240, 1152, 128), (1, 1024, 1024)]
# size, channels, stride of a 3 x 3 depthwise convolution
DEPTHWISE = [(16, 64, 1), (16, 64, 2)]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    action = parser.add_mutually_exclusive_group()
    action.add_argument("--check", metavar="FILE", type=Path)
    action.add_argument("--write", metavar="FILE", type=Path)
    arguments = parser.parse_args()
    for tool, packages in PACKAGES.items():
        if shutil.which(tool) is None:
            sys.exit(f"count.py: {tool} not found; Debian: apt-get install {packages}")
    found = {"compiler": compiler_version()}
    with tempfile.TemporaryDirectory() as folder:
        counter = Counter(Path(folder))
        found["instructions per multiply-accumulate"] = kernels(counter)
    if arguments.write:
        arguments.write.write_text(json.dumps(found, indent=1) + "\n")
    if arguments.check:
        compare(found, json.loads(arguments.check.read_text()), arguments.check)


def compiler_version():
    """First line of what the compiler says of itself."""
    said = subprocess.run([COMPILER, "--version"], capture_output=True, text=True, check=True)
    return said.stdout.splitlines()[0]


class Counter:
    """Runs programs under QEMU with the plugin of icount.c, all built in a folder."""

    def __init__(self, folder):
        self.folder, self.plugin = folder, folder / "icount.so"
        subprocess.run(["gcc", "-O2", "-shared", "-fPIC", "-fvisibility=hidden", TOOLS / "icount.c", "-o", self.plugin],
                       check=True)

    def executed(self, cpu, *command):
        """Instructions of one run of a program."""
        log = self.folder / "counts"
        subprocess.run([EMULATOR, "-cpu", cpu, "-L", "/usr/aarch64-linux-gnu", "-plugin", self.plugin, "-d", "plugin",
                        "-D", log, *map(str, command)], check=True, stdout=subprocess.DEVNULL)
        return int(next(line.split()[0] for line in log.read_text().splitlines() if line.endswith(" total")))

    def per_call(self, cpu, *command):
        """Instructions of one repetition: `command` takes the number of them as its last argument."""
        return self.executed(cpu, *command, 2) - self.executed(cpu, *command, 1)


def kernels(counter):
    """{kernel weights operation: instructions per multiply-accumulate}, printed on the way."""
    program = counter.folder / "kernel"
    subprocess.run([TOOLS / "build.sh", TOOLS / "kernel.c", program], check=True, env={**os.environ, "CC": COMPILER})
    operations = [("product", shape, math.prod(shape)) for shape in PRODUCTS]
    operations += [("depthwise", shape, shape[1] * 9 * ((shape[0] - 1) // shape[2] + 1) ** 2) for shape in DEPTHWISE]
    names = [f"{operation} {'x'.join(map(str, shape))}" for operation, shape, _ in operations]
    print("instructions per multiply-accumulate\n\n" + f"{'kernel':13} {'weights':13}", *(f"{n:>21}" for n in names))
    figures = {}
    for kernel, widths in KERNELS.items():
        for width in widths:
            print(f"{kernel:13} {width if kernel != 'float32' else 'float32':13}", end="")
            for name, (operation, shape, macs) in zip(names, operations, strict=True):
                counts = operation == "product" or (width == "8-bit" and kernel in ("float32", "neon"))
                if counts:
                    figure = counter.per_call("max,sve=off", program, operation, kernel, *shape, *WIDTHS[width]) / macs
                    figures[f"{kernel} {width} {name}"] = float(f"{figure:.4g}")
                print(f" {figure:21.4f}" if counts else f"{'-':>22}", end="", flush=True)
            print()
    return figures


def compare(found, expected, path):
    """Leave with an error where a figure grew, is missing or is new; name each of them."""
    complaints = []
    for table, figures in found.items():
        if not isinstance(figures, dict):
            continue
        stored = expected.get(table, {})
        complaints += [f"{table}: '{name}' is new" for name in figures.keys() - stored.keys()]
        complaints += [f"{table}: '{name}' is gone" for name in stored.keys() - figures.keys()]
        complaints += [f"{table}: '{name}' grew from {stored[name]:,} to {figure:,}" for name, figure in figures.items()
                       if name in stored and figure > ALLOWED_GROWTH * stored[name]]
    if complaints and found["compiler"] != expected["compiler"]:
        complaints.append(f"the figures of {path} are of {expected['compiler']}, these of {found['compiler']}")
    if complaints:
        sys.exit("count.py: " + "\n          ".join(sorted(complaints)) +
                 f"\nIf that is meant: python tools/arm/count.py --write {path}, and say why in the change")
    print(f"no figure grew by more than {ALLOWED_GROWTH - 1:.0%} over {path}")


if __name__ == "__main__":
    main()
