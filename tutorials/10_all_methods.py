# %% [markdown]
# # 10. All methods on one network
#
# Same float network, same data, same number of epochs, 2 bits per weight and 4 per activation. What is each method
# worth? One seed on a small data set proves little: `python -m minquant.compare` repeats this over seeds and bits.

# %%
import tempfile
from pathlib import Path

import numpy as np
from lesson import PICTURES, SHORT, picture

from minquant import data, film, plot
from minquant.config import Config
from minquant.progress import Progress
from minquant.quantizers import METHODS
from minquant.run import Run
from minquant.summary import table

digits = data.load("digits")
folder = Path(tempfile.mkdtemp(prefix="minquant-"))
epochs = 2 if SHORT else 8

# %% [markdown]
# ## One float network
#
# A `Config` holds everything that decides a run. A `Run` trains it in a folder, and can go on after an interruption.
# This is what `python -m minquant.train` does.

# %%
common = {"model": "mlp", "data": "digits", "bits": 2, "act_bits": 4, "epochs": epochs}
start = Config(**common, method="float", float_epochs=3 if SHORT else 15)
floats = Run(start, folder / "float", digits, Progress(quiet=True)).train()
print(f"float: {floats['accuracy']:.1%}, {floats['bytes'] / 1024:.0f} kB")

# %% [markdown]
# ## Every method from there
#
# `METHODS` is the registry: the five papers, their ancestors, and the baselines. Methods that cannot do 2 bits, or
# are calibrated without training, are left out.

# %%
names = ["minmax", "lsq", "qnet"] if SHORT else [
    name for name, method in METHODS.items() if 2 in method.weight_bits and name not in ("ptq", "twn", "binary")]
reports = {}
for name in names:
    config = Config(**common, method=name, float_from=str(folder / "float"), seed=0)
    reports[name] = Run(config, folder / name, digits, Progress(quiet=True)).train()

# %%
order = sorted(names, key=lambda name: -reports[name]["accuracy"])
rows = [(name, f"{reports[name]['accuracy']:.1%}", f"{100 * (floats['accuracy'] - reports[name]['accuracy']):.1f}",
         f"{reports[name]['bytes'] / 1024:.1f}", METHODS[name].learns[:60]) for name in order]
print(table(("method", "accuracy", "below float", "kB", "learns"), rows))

best = reports[order[0]]["accuracy"]
assert best > floats["accuracy"] - 0.03                       # 2 bits are enough for the best of them
assert best > reports["minmax"]["accuracy"] + 0.01            # and reading the step off the largest weight is not
assert all(report["bytes"] < 0.12 * floats["bytes"] for report in reports.values())

# %% [markdown]
# ## A film
#
# A run keeps a sample of its weights for every epoch, in `film.npz`. `python -m minquant.film RUN` turns it into a
# GIF. Watch how the function of `qnet` hardens while the weights move.

# %%
PICTURES.mkdir(parents=True, exist_ok=True)
size = film.write(film.read(folder / "qnet"), PICTURES / "10_film.gif", width=700)
assert size < 1_000_000
print(f"film: {PICTURES / '10_film.gif'}, {size / 1024:.0f} kB")

# %%
figure, (left, right) = plot.subplots(1, 2, (10, 3.8))
left.plot([100 * reports[name]["accuracy"] for name in order[::-1]], order[::-1], "o", color=plot.BLUE)
left.axvline(100 * floats["accuracy"], color=plot.GREY, linestyle="--", label="float")
left.grid(alpha=0.3)
left.set_xlabel("test accuracy (%), 2-bit weights")
left.legend(fontsize=8, loc="lower left")
shown = [name for name in ("minmax", "lsq", "dgms", "gdrq", "cpq", "qnet", "dq") if name in names]
for name, colour, marker in zip(shown, plot.CYCLE, plot.MARKERS):
    history = np.array(plot.read_log(folder / name))
    history = history[history[:, 0] == 1]  # the quantized stage
    right.plot(history[:, 1], 100 * history[:, 6], color=colour, marker=marker, markersize=4, label=name)
right.set_xlabel("epoch")
right.set_ylabel("validation accuracy (%)")
right.grid(alpha=0.3)
right.legend(fontsize=8)
picture(figure, "10_all_methods")

# %% [markdown]
# ## Exercise
#
# Accuracy against size: quantize with `lsq` at 2, 4 and 8 bits and draw accuracy against `report["bytes"]`. Where
# does another bit stop paying? (`solutions/10_all_methods.py`)
#
# ## What you can now read
#
# - `minquant/run.py`, `minquant/training.py`: a run from configuration to report
# - `minquant/quantizers/__init__.py`: the registry, `minquant/quantizers/base.py`: what a `Method` is
# - `minquant/compare.py`; `results/README.md`: the same on Fashion-MNIST, with several seeds
