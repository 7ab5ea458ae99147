# %% [markdown]
# # 19. To an ARM board
#
# The C project of tutorial 18 is built for a Raspberry Pi and for a microcontroller, on this machine, and run in an
# emulator. The point: one hash of all logits, on every processor. What you measured on your desk is what the board
# computes.
#
# You need cross compilers and QEMU. On Debian and Ubuntu:
#
#     apt install gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user
#     apt install gcc-arm-none-eabi libnewlib-arm-none-eabi qemu-system-arm
#
# Without them this tutorial says what is missing and shows the rest.

# %%
import shutil
import subprocess
import tempfile
from pathlib import Path

from lesson import SHORT, fit, float_network, picture, quantized

import minquant
from minquant import data, kernels, plot
from minquant.deploy.c_project import logits_hash, write_project
from minquant.summary import table

digits = data.load("digits")
folder = Path(tempfile.mkdtemp(prefix="minquant-")) / "c"

# %% [markdown]
# ## A network for a small computer
#
# LeNet-5 with 2-bit weights and activations. Sixteen times fewer bits than float32.

# %%
network, float_accuracy = float_network(digits, 3 if SHORT else 15, "lenet5")
model = quantized(network, digits, "lsq", bits=2, act_bits=2)
accuracy = fit(model, digits, 2 if SHORT else 15)
program = minquant.lower(model, digits.image_shape, digits.normalise, {"data": "digits", "model": "lenet5"})
expected = f"hash {logits_hash(program.run(digits.test.images[:8])):016x}"
print(f"float {float_accuracy:.1%}, 2 bits {accuracy:.1%}, {expected}")
compiled = kernels.info()["in_use"]
if compiled:
    print(write_project(program, folder, digits.test.images))
else:
    print("a C project needs the compiled kernels; install a C compiler and minquant again")

# %% [markdown]
# ## The processors
#
# One build for 64-bit ARM serves three generations: the program chooses its kernels when it starts. The Raspberry Pi
# 3 and 4 (Cortex-A53, A72) have NEON. The Pi 5 (A76) has a dot product of bytes. Newer ones multiply small matrices
# of bytes. A Cortex-M4 has no vectors at all and no operating system: plain C, and a few hundred kilobytes.

# %%
LINUX = "CC=aarch64-linux-gnu-gcc"
targets = [("this computer", "cc", None, [], [])]
targets += [(name, "aarch64-linux-gnu-gcc", "qemu-aarch64", [LINUX], ["qemu-aarch64", "-cpu", cpu, "-L",
                                                                     "/usr/aarch64-linux-gnu"])
            for name, cpu in (("Raspberry Pi 3", "cortex-a53"), ("Raspberry Pi 5", "cortex-a76"),
                              ("newer 64-bit ARM", "max,sve=off"))]
if not SHORT:
    machine = ["qemu-system-arm", "-M", "mps2-an386", "-nographic", "-semihosting-config", "enable=on,target=native",
               "-kernel"]
    targets.append(("Cortex-M4 board", "arm-none-eabi-gcc", "qemu-system-arm", ["BOARD=mps2-an386"], machine))


def sizes(compiler):
    """(bytes of code and constants, bytes of memory) of the built program."""
    tool = compiler.replace("gcc", "size") if compiler != "cc" else "size"
    text, initialised, zero = subprocess.run([tool, "model"], cwd=folder, check=True, capture_output=True,
                                             text=True).stdout.splitlines()[1].split()[:3]
    return int(text) + int(initialised), int(initialised) + int(zero)


rows = []
for name, compiler, emulator, settings, run in targets if compiled else ():
    missing = [tool for tool in ("make", compiler, emulator) if tool and shutil.which(tool) is None]
    if missing:
        print(f"{name}: {', '.join(missing)} not found; see the top of this tutorial")
        continue
    subprocess.run(["make", "-j2", *settings, "model"], cwd=folder, check=True, capture_output=True)
    said = subprocess.run([*run, "./model"], cwd=folder, check=True, capture_output=True, text=True).stdout.splitlines()
    assert said[-1] == expected, f"{name} computes another network: {said[-1]}"
    rows.append((name, said[0].partition(":")[0], *sizes(compiler)))
print(table(("processor", "kernels", "code and constants", "memory"), rows))

# %% [markdown]
# One hash. The kernels differ, the compilers differ, the word sizes differ. It works because sums of integers have no
# rounding, and because every float operation of the requantization is a single IEEE operation, compiled without
# contraction (`-ffp-contract=off`).
#
# An emulator says nothing about time. Instructions can be counted, though: `tools/arm/count.py`.

# %%
figure, axis = plot.subplots(size=(8, 3.4))
names = [f"{name}\n{kernels}" for name, kernels, *_ in rows]
for shift, column, colour, label in ((-0.2, 2, plot.BLUE, "code and constants"), (0.2, 3, plot.ORANGE, "memory")):
    bars = axis.bar([i + shift for i in range(len(rows))], [row[column] / 1024 for row in rows], 0.4, color=colour,
                    label=label)
    axis.bar_label(bars, fmt="%.0f", fontsize=8)
axis.set_xticks(range(len(rows)), names, fontsize=8)
axis.set_ylabel("size (kB)")
axis.set_title("the same logits everywhere", fontsize=10)
axis.legend(fontsize=8)
picture(figure, "19_arm_board")

# %% [markdown]
# ## Exercise
#
# How much flash does a bit cost? Lower the network with 2, 4 and 8 bits per weight and compare `program.nbytes()`.
# Which part grows with the bits, which does not? (`solutions/19_arm_board.py`)
#
# ## What you can now read
#
# - `minquant/deploy/board/README.md`: build, run and measure on a real board
# - `minquant/_kernels/gemm_neon.c`, `minquant/_kernels/gemm_neon_dotprod.c`
# - `tools/arm/test.sh`, `tools/arm/count.py`: the C core on emulated processors
