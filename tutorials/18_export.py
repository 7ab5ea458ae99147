# %% [markdown]
# # 18. Out of Python: a packed file, ONNX, a C project
#
# A trained network is worth what it does elsewhere. Here one 4-bit network leaves Python in three forms. Each is run,
# and each gives the same numbers as the program in Python, to the last bit of what it stores.

# %%
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np
from lesson import SHORT, fit, float_network, picture, quantized

import minquant
from minquant import data, kernels, plot
from minquant.bench.timing import interleaved, summary
from minquant.deploy.c_project import logits_hash, write_project
from minquant.deploy.onnx_export import check_onnx, export_onnx

digits = data.load("digits")
folder = Path(tempfile.mkdtemp(prefix="minquant-"))
images = digits.test.images

# %% [markdown]
# ## The program
#
# Train, then lower: a list of operations on integers. (`python -m minquant.train` does this at its end and leaves
# `model.mqz` in the run folder.)

# %%
network, float_accuracy = float_network(digits, 3 if SHORT else 15, "lenet5")
model = quantized(network, digits, "lsq", bits=4)
accuracy = fit(model, digits, 2 if SHORT else 10)
program = minquant.lower(model, digits.image_shape, digits.normalise, {"data": "digits", "model": "lenet5"})
logits = program.run(images)
print(program.summary())
assert (logits.argmax(1) == digits.test.labels).mean() == accuracy

# %% [markdown]
# ## 1. The packed file
#
# One `.mqz` file holds everything: packed codes, level tables, requantization. It has a checksum and no pickles, so a
# damaged or foreign file is refused. Read back, it gives the same logits.

# %%
size = {"float32 weights": sum(4 * array.size for array in network.named_params().values()),
        ".mqz": minquant.save(program, folder / "model.mqz")}
assert np.array_equal(minquant.load(folder / "model.mqz").run(images), logits)
assert size[".mqz"] < 0.3 * size["float32 weights"]

# %% [markdown]
# ## 2. ONNX
#
# Every runtime reads ONNX. The model has 4-bit weights and QuantizeLinear / DequantizeLinear pairs, and it takes
# pixels as the program does. `check_onnx` compares the codes of every layer. Here we also run it ourselves.

# %%
calls = {"NumPy": lambda: program.run(images, backend="numpy"), "kernels": lambda: program.run(images, num_threads=1)}
try:
    import onnxruntime
except ImportError:
    print('onnxruntime is not here; to run this part: pip install "minquant[export]"')
else:
    size["ONNX"] = export_onnx(program, folder / "model.onnx")["bytes"]
    print(check_onnx(program, folder / "model.onnx", images))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(folder / "model.onnx", options, providers=["CPUExecutionProvider"])
    theirs = session.run(["logits", "class"], {"images": images})
    assert np.array_equal(theirs[0], logits.astype(np.float32)) and np.array_equal(theirs[1], logits.argmax(1))
    calls["ONNX Runtime"] = lambda: session.run(["logits"], {"images": images})

# %% [markdown]
# ## 3. A C project
#
# A folder with C99, a Makefile and eight test images. It needs a C compiler and nothing else: no heap, no library.
# Its program prints a hash of all logits. Ours must be the same.

# %%
missing = [tool for tool in ("make", "cc") if shutil.which(tool) is None]
if missing or not kernels.info()["in_use"]:
    print(f"{', '.join(missing) or 'compiled kernels'} not found; to run this part: apt install build-essential, and "
          "install minquant again")
else:
    size["C constants"] = write_project(program, folder / "c", images)["constant_bytes"]
    print(sorted(path.name for path in (folder / "c").iterdir()))
    subprocess.run(["make", "-j2"], cwd=folder / "c", check=True, capture_output=True)
    (folder / "pixels").write_bytes(images.tobytes())
    said = subprocess.run(["./model", folder / "pixels"], cwd=folder / "c", check=True, capture_output=True, text=True)
    print(*said.stdout.splitlines()[:2], "...", said.stdout.splitlines()[-1], sep="\n")
    assert said.stdout.splitlines()[-1] == f"hash {logits_hash(logits):016x}"

# %% [markdown]
# ## Size and speed
#
# Time is per image, for a batch of all test images on one thread. A small network like this mostly measures overhead;
# `python -m minquant.bench` has larger ones.

# %%
times = {name: 1e3 * value["median"] / len(images)
         for name, value in summary(interleaved(calls, 1 if SHORT else 3)).items()}
for name, microseconds in times.items():
    print(f"{name:14s} {microseconds:8.1f} us per image")
figure, (left, right) = plot.subplots(1, 2, (10, 3))
left.barh(list(size), [value / 1024 for value in size.values()], color=plot.BLUE)
left.set_xlabel("size (kB)")
right.barh(list(times), list(times.values()), color=plot.ORANGE)
right.set_xlabel("time per image (us), one thread")
for axis in (left, right):
    axis.bar_label(axis.containers[0], fmt="%.1f", padding=3, fontsize=8)
    axis.margins(x=0.15)
picture(figure, "18_export")

# %% [markdown]
# ## Exercise
#
# Change a single byte of the `.mqz` file, any byte, and load it. What happens? Is there a byte that may be changed
# unseen? (`solutions/18_export.py`)
#
# ## What you can now read
#
# - `minquant/deploy/file.py`: every byte of the file; `minquant/deploy/program.py`: how a program runs
# - `minquant/deploy/onnx_export.py`: what is promised of other runtimes
# - `minquant/deploy/c_project.py`, `minquant/deploy/board/README.md`: the C project
