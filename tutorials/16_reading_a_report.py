# %% [markdown]
# # 16. Reading a report: where the accuracy went
#
# A network was quantized and lost accuracy. Which layer did it? More bits everywhere would help, and cost memory
# everywhere. `python -m minquant.report RUN` measures a run: a page for people, `details.json` for programs. Here we
# make a bad run, read its report, change one line, and get the accuracy back.

# %%
import json
import tempfile
from pathlib import Path

import numpy as np
from lesson import SHORT, picture

from minquant import data, plot
from minquant.config import Config
from minquant.progress import Progress
from minquant.report.__main__ import write_report
from minquant.run import Run
from minquant.summary import table

digits = data.load("digits")
folder = Path(tempfile.mkdtemp(prefix="minquant-"))

# %% [markdown]
# ## A bad run
#
# Post-training quantization: nothing is trained after rounding. 3 bits for all weights, 4 for activations.

# %%
common = {"model": "lenet5", "data": "digits", "act_bits": 4}
Run(Config(**common, method="float", float_epochs=5 if SHORT else 20), folder / "float", digits,
    Progress(quiet=True)).train()


def post_training(name, **settings):
    """A run that only calibrates; return its result."""
    config = Config(**{**common, **settings}, method="ptq", epochs=0, float_from=str(folder / "float"))
    return Run(config, folder / name, digits, Progress(quiet=True)).train()


bad = post_training("bad", bits=3)
print(f"float {bad['float_accuracy']:.1%}, 3 bits {bad['accuracy']:.1%}, {bad['bytes'] / 1024:.1f} kB")

# %% [markdown]
# ## The report
#
# Three files appear in the run folder. Open `report.html` in a browser. The same numbers are in `details.json`.

# %%
write_report(folder / "bad")
details = json.loads((folder / "bad" / "details.json").read_text())
print(sorted(details))
assert {path.name for path in (folder / "bad").iterdir()} >= {"report.html", "report.txt", "details.json"}
assert not details["missing"] and abs(details["test"]["accuracy"] - bad["accuracy"]) < 1e-9

# %% [markdown]
# ## Size and error are not enough
#
# For every layer: its share of the bytes, and the signal-to-noise ratio of its weights, `10 log10(|w|^2 / |w -
# Q(w)|^2)` decibels. A bit is worth about 6 dB. These say where bytes and errors are. They do not say which errors
# matter.

# %%
rows = [(row["name"], row["bits"], row["bytes"], f"{row['macs']:,}", f"{row['sqnr_db']:.1f}")
        for row in details["layers"]]
print(table(("layer", "bits", "bytes", "MACs", "SQNR (dB)"), rows))
assert 5 < np.mean([row["sqnr_db"] for row in details["layers"]]) < 20

# %% [markdown]
# ## Sensitivity
#
# So ask the network. Quantize only one layer: what is lost? Leave only one layer float: what is won? The layer whose
# two answers are both large is the one to treat. A layer is taken together with the activations it reads.

# %%
found = details["sensitivity"]
print(f"all float {found['all_float']:.1%}, all quantized {found['all_quantized']:.1%} on {found['images']} images")
loss = {name: found["all_float"] - row["only_quantized"] for name, row in found["layers"].items()}
gain = {name: row["only_float"] - found["all_quantized"] for name, row in found["layers"].items()}
print(table(("layer", "lost if only it is quantized", "won if only it is float"),
            [(name, f"{100 * loss[name]:.1f} points", f"{100 * gain[name]:.1f} points") for name in loss]))
guilty = max(loss, key=lambda name: loss[name] + gain[name])
assert loss[guilty] + gain[guilty] > 2 * np.median([loss[name] + gain[name] for name in loss])

# %% [markdown]
# ## The treatment
#
# Give that layer more bits, and only that one: `--override LAYER=8` on the command line.

# %%
treated = post_training("treated", bits=3, overrides={guilty: 8})
everywhere = post_training("everywhere", bits=4)
for name, result in (("3 bits", bad), (f"3 bits, {guilty} at 8", treated), ("4 bits", everywhere)):
    print(f"{name:22s} accuracy {result['accuracy']:.1%}   {result['bytes'] / 1024:.2f} kB")
assert treated["accuracy"] > bad["accuracy"]
assert treated["bytes"] < everywhere["bytes"]

# %% [markdown]
# ## Which mistakes?
#
# The confusion matrix says which digits are taken for which others: rows are labels, columns predictions.

# %%
confusion = np.array(details["test"]["confusion"])
assert confusion.sum() == len(digits.test) and np.trace(confusion) == round(bad["accuracy"] * len(digits.test))
wrong = confusion - np.diag(np.diag(confusion))
label, guess = np.unravel_index(wrong.argmax(), wrong.shape)
print(f"most frequent mistake: {wrong.max()} times a {label} is read as {guess}")

# %%
figure, (left, right) = plot.subplots(1, 2, (10, 3.8), width_ratios=(1.4, 1))
places = np.arange(len(loss))
left.bar(places - 0.2, 100 * np.array(list(loss.values())), 0.4, color=plot.ORANGE, label="lost: only it quantized")
left.bar(places + 0.2, 100 * np.array(list(gain.values())), 0.4, color=plot.BLUE, label="won: only it float")
left.set_xticks(places, list(loss))
left.set_ylabel("validation accuracy (points)")
left.legend(fontsize=8)
right.imshow(np.sqrt(confusion), cmap="Blues")
right.set_xticks(range(10))
right.set_yticks(range(10))
right.set_xlabel("predicted digit")
right.set_ylabel("digit")
for i, j in np.argwhere(wrong):
    right.text(j, i, wrong[i, j], ha="center", va="center", fontsize=8, color=plot.RED)
picture(figure, "16_reading_a_report")

# %% [markdown]
# ## Exercise
#
# Are the weights or the activations of the guilty layer to blame? Quantize with `act_bits=8` and with `bits=8`, and
# compare. (`solutions/16_reading_a_report.py`)
#
# ## What you can now read
#
# - `minquant/report/sensitivity.py`: how one layer is taken out; `minquant/report/measure.py`: every number of the page
# - `minquant/quantizers/calibration.py`: post-training quantization
# - `minquant/summary.py`: what a layer costs when it is stored
