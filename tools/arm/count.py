#!/usr/bin/env python3
"""Executed instructions on 64-bit ARM, counted by QEMU: per multiply-accumulate of each kernel, per image of networks.

    python tools/arm/count.py                 print them
    python tools/arm/count.py --check FILE    and fail where a figure is more than 2 % above that of FILE
    python tools/arm/count.py --write FILE    and store them
    python tools/arm/count.py --only kernels  or networks: a part of it
    python tools/arm/count.py --only cycles   what llvm-mca thinks of the kernels' loops (Debian: llvm), as information

Whole calls are counted: copies, decoding and stores are in. Networks are exported C projects with random weights, all
layers at the same bits; beside them the products of their layers in float32 (float32.h), without what else a float
network does. Counts are the same in every run and say nothing of caches, or of how long an instruction takes. They
depend on the compiler, whose name is stored with them. Needs the package with its compiled kernels.

No product takes fewer than its multiplications alone: usmmla multiplies 32 pairs (1/32 = 0.03125), sdot 16 (0.0625),
smlal 8 into sums of 16 bits (0.125; with weights of 8 bits smull, smlal2 and sadalp for 16: 0.1875), mla 16 into sums
of 8 bits (0.0625, for 2 x 2 bits). The rest is loads of a tile: with sdot 6 rows and 16 columns take 6 loads and 6 eor
of activations, and 8 loads of weights, for 96 products (0.0755); with usmmla 6 loads and 6 zip, and 8, for 48 (0.0443).

Debian: apt-get install gcc gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user
"""
import argparse
import collections
import filecmp
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from minquant import models
from minquant.deploy import c_project, lower
from minquant.deploy.ops import Weighted
from minquant.quantize import calibrate, quantize

TOOLS = Path(__file__).resolve().parent
COMPILER, EMULATOR = "aarch64-linux-gnu-gcc", "qemu-aarch64"
PACKAGES = {"gcc": "gcc", "make": "make", COMPILER: "gcc-aarch64-linux-gnu libc6-dev-arm64-cross",
            EMULATOR: "qemu-user"}
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

MODELS = ["cortex-a53", "cortex-a55", "cortex-a72"]  # of llvm-mca 14; its later cores are the same as cortex-a57
PROCESSORS = ["cortex-a53", "cortex-a76"]  # plain NEON as in Raspberry Pi 3 and 4; with the dot product, Pi 5
NETWORKS = {"lenet5": (28, 28, 1), "resnet20": (32, 32, 3), "vgg_small": (32, 32, 3), "mobilenet_tiny": (32, 32, 3)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=["kernels", "networks", "cycles"])
    action = parser.add_mutually_exclusive_group()
    action.add_argument("--check", metavar="FILE", type=Path)
    action.add_argument("--write", metavar="FILE", type=Path)
    arguments = parser.parse_args()
    tools = {**PACKAGES, "llvm-mca": "llvm"} if arguments.only == "cycles" else PACKAGES
    for tool, packages in tools.items():
        if shutil.which(tool) is None:
            sys.exit(f"count.py: {tool} not found; Debian: apt-get install {packages}")
    if arguments.only and arguments.write:
        sys.exit("count.py: --write stores everything; leave --only out")
    found = {"compiler": compiler_version()}
    with tempfile.TemporaryDirectory() as folder:
        counter = Counter(Path(folder))
        program = counter.folder / "kernel"
        subprocess.run([TOOLS / "build.sh", TOOLS / "kernel.c", program, "-static"], check=True,
                       env={**os.environ, "CC": COMPILER})
        if arguments.only == "cycles":
            cycles(counter, program)
        if arguments.only in (None, "kernels"):
            found["instructions per multiply-accumulate"] = kernels(counter, program)
        if arguments.only in (None, "networks"):
            found["instructions per image"] = networks(counter, program)
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
        return next(int(line.split()[0]) for line in self.log(cpu, *command) if line.endswith(" total"))

    def hottest(self, cpu, *command):
        """Lines of assembly of the block in which a static program executed most instructions."""
        _, _, address, length = next(line.split() for line in self.log(cpu, *command) if " block " in line)
        start = int(address, 16)
        said = subprocess.run(["aarch64-linux-gnu-objdump", "-d", "--no-show-raw-insn", f"--start-address={start}",
                               f"--stop-address={start + 4 * int(length)}", command[0]],
                              capture_output=True, text=True, check=True)
        return [line.partition("\t")[2] for line in said.stdout.splitlines() if ":\t" in line]

    def log(self, cpu, *command):
        """What the plugin says of one run of a program, in lines."""
        log = self.folder / "counts"
        subprocess.run([EMULATOR, "-cpu", cpu, "-L", "/usr/aarch64-linux-gnu", "-plugin", self.plugin, "-d", "plugin",
                        "-D", log, *map(str, command)], check=True, stdout=subprocess.DEVNULL)
        return log.read_text().splitlines()

    def per_call(self, cpu, *command):
        """Instructions of one repetition: `command` takes the number of them as its last argument."""
        return self.executed(cpu, *command, 2) - self.executed(cpu, *command, 1)


def kernels(counter, program):
    """{kernel weights operation: instructions per multiply-accumulate}, printed on the way."""
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


def cycles(counter, program):
    """Print cycles per multiply-accumulate, were all of a product as fast as its hottest block with warm caches."""
    shape = PRODUCTS[1]
    version = subprocess.run(["llvm-mca", "--version"], capture_output=True, text=True, check=True).stdout.split()
    print(f"cycles per multiply-accumulate of the loops of {'x'.join(map(str, shape))}, estimated by llvm-mca "
          f"{version[version.index('version') + 1]}: a ranking, not a time\n")
    print(f"{'kernel':13} {'weights':13}", *(f"{model:>12}" for model in MODELS))
    for kernel in ("float32", "neon", "neon_dotprod"):
        for width in KERNELS[kernel]:
            command = program, "product", kernel, *shape, *WIDTHS[width]
            block = counter.hottest("max,sve=off", *command, 2)
            per_mac = counter.per_call("max,sve=off", *command) / math.prod(shape)
            print(f"{kernel:13} {width if kernel != 'float32' else 'float32':13}",
                  *(f"{per_mac * estimate(block, model) / len(block):12.3f}" for model in MODELS), flush=True)


def estimate(block, model):
    """Cycles of one turn of a block on a processor model of llvm-mca; branches are taken to cost nothing."""
    body = "\n".join(line for line in block if not line.startswith(("b.", "b\t", "cb", "tb", "ret", "bl")))
    said = subprocess.run(["llvm-mca", "-mtriple=aarch64", f"-mcpu={model}", "-mattr=+dotprod", "-iterations=100"],
                          input=body, capture_output=True, text=True, check=True)
    return int(next(line.split()[-1] for line in said.stdout.splitlines() if line.startswith("Total Cycles"))) / 100


def networks(counter, program):
    """{network weights processor: instructions per image}, printed on the way, the ratios to int8 and float32 too."""
    print("\nmillions of instructions per image\n")
    print(f"{'network':15} {'processor':11} {'float32':>9} {'8-bit':>9} {'4-bit':>9} {'2-bit':>9}"
          f" {'4/8':>6} {'2/8':>6} {'f32/8':>6} {'f32/4':>6} {'f32/2':>6}")
    figures, folder = {}, counter.folder / "network"
    for network, shape in NETWORKS.items():
        counts = {}
        for bits in (8, 4, 2):
            lowered = random_program(network, shape, bits)
            export(lowered, shape, folder)
            for cpu in PROCESSORS:
                counts[cpu, bits] = counter.per_call(cpu, folder / "model", "-r")
                figures[f"{network} {bits}-bit {cpu}"] = counts[cpu, bits]
        exact = figures[f"{network} float32"] = float32_products(counter, program, lowered)
        for cpu in PROCESSORS:
            row = [counts[cpu, bits] for bits in (8, 4, 2)]
            ratios = [row[1] / row[0], row[2] / row[0], *(exact / count for count in row)]
            print(f"{network:15} {cpu:11} {exact / 1e6:9.3f}", *(f"{count / 1e6:9.3f}" for count in row),
                  *(f"{ratio:6.2f}" for ratio in ratios), flush=True)
    return figures


def random_program(network, shape, bits):
    """The integer program of an untrained network, calibrated on noise."""
    rng = np.random.default_rng(0)
    model = quantize(models.build(network, shape, 10, rng), "minmax", bits, bits, rng=rng)
    calibrate(model, normalise(rng.integers(0, 256, (16, *shape), np.uint8)), rng)
    model.method.finish(model)
    return lower(model, shape, normalise)


def normalise(images):
    """Pixels about -2 .. 2."""
    return (images.astype(np.float32) - 127.5) / 64


def export(lowered, shape, folder):
    """Build the C project of a program in a folder, where the objects of its kernels may be already."""
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        made = Path(scratch, "project")
        c_project.write_project(lowered, made, np.random.default_rng(1).integers(0, 256, (1, *shape), np.uint8))
        shutil.copytree(made, folder, dirs_exist_ok=True, copy_function=copy_changed)
    subprocess.run(["make", "-s", f"-j{os.cpu_count()}", f"CC={COMPILER}", "CFLAGS=-O3", "model"], cwd=folder,
                   check=True)


def copy_changed(source, target):
    """Copy a file unless it is there already, so that make has nothing to do for it."""
    if not (os.path.exists(target) and filecmp.cmp(source, target, shallow=False)):
        shutil.copyfile(source, target)


def float32_products(counter, program, lowered):
    """Instructions of the layers' products in float32."""
    calls = collections.Counter()
    for op, tensor in zip(lowered.ops, lowered.tensors[1:], strict=True):
        if getattr(op, "groups", 1) > 1:
            source = lowered.tensors[op.inputs[0]]
            calls["depthwise", source.shape[0], source.shape[2], op.stride] += 1
        elif isinstance(op, Weighted):
            calls["product", math.prod(tensor.shape[:-1]), math.prod(op.shape[:-1]), op.shape[-1]] += 1
    return sum(times * counter.per_call(PROCESSORS[0], program, operation, "float32", *shape, *WIDTHS["8-bit"])
               for (operation, *shape), times in calls.items())


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
