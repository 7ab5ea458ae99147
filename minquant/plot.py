"""Pictures of a run, drawn without a screen. Colours are the Okabe-Ito palette, readable for colour-blind people."""

import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402  (the backend is chosen first)

from .nn.layers import Weighted  # noqa: E402
from .quantize import bits_of  # noqa: E402
from .runs import COLUMNS, replacing  # noqa: E402

BLUE, ORANGE, GREEN, RED, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#7f7f7f"
CYCLE = (BLUE, ORANGE, GREEN, RED, "#CC79A7", "#56B4E9", "#000000", "#F0E442")
MARKERS = "osD^vPX*<>hp"


def run_plots(folder, model, history):
    """Write the pictures of a run into folder/plots: curves.png, weights.png, bits.png."""
    plots = folder / "plots"
    plots.mkdir(exist_ok=True)
    for name, figure in (("curves", curves(history)), ("weights", weights(model)), ("bits", bits(model))):
        if figure is not None:
            save(figure, plots / f"{name}.png")


def save(figure, path):
    """Write a figure as PNG, whole or not at all, and close it."""
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=120, format="png")
    plt.close(figure)


def comparison_plots(folder, spread):
    """Write accuracy_bits.png and accuracy_size.png of a comparison (`minquant.compare.spread`)."""
    for name, column, label in (("accuracy_bits", 1, "bits of weights and activations"),
                                ("accuracy_size", 6, "model size (kB)")):
        figure, axis = plt.subplots(figsize=(7, 4.2), layout="constrained")
        for i, variant in enumerate(dict.fromkeys(row[0] for row in spread)):
            points = sorted((row[column] / (1024 if column == 6 else 1), row[2], row[3], row[4])
                            for row in spread if row[0] == variant)
            x, mean, low, high = 100 * np.array(points).T
            axis.errorbar(x / 100, mean, (mean - low, high - mean), color=CYCLE[i % len(CYCLE)],
                          marker=MARKERS[i % len(MARKERS)], capsize=3, label=variant)
        if column == 1:
            axis.set_xticks(sorted({row[1] for row in spread}))
        axis.set_xlabel(label)
        axis.set_ylabel("test accuracy (%), lowest to highest seed")
        axis.grid(alpha=0.3)
        if spread:
            axis.legend(fontsize=8)
        save(figure, folder / f"{name}.png")


def curves(history):
    """Loss and accuracy over the epochs, float stage and quantized stage one behind the other; None without epochs."""
    if not history:
        return None
    data = dict(zip(COLUMNS, np.array(history).T))
    epoch = np.arange(1, len(history) + 1)
    figure, axes = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
    for axis, what, scale in ((axes[0], "loss", 1), (axes[1], "accuracy", 100)):
        axis.plot(epoch, scale * data[what], color=BLUE, label="training")
        axis.plot(epoch, scale * data[f"validation_{what}"], color=ORANGE, label="validation")
        axis.set_xlabel("epoch")
        axis.set_ylabel("cross-entropy loss (nats)" if what == "loss" else "accuracy (%)")
        axis.grid(alpha=0.3)
        changes = np.flatnonzero(np.diff(data["stage"])) + 1
        for change in changes:
            axis.axvline(change + 0.5, color=GREY, linestyle="--", label="quantizers in place")
        axis.legend()
    return figure


def weights(model, columns=3):
    """Histogram of the latent weights of every quantized layer against the levels they are rounded to."""
    layers = [(name, layer) for name, layer in model.named_layers()
              if isinstance(layer, Weighted) and "weight_quantizer" in layer.children]
    if not layers:
        return None
    rows = -(-len(layers) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(4 * columns, 2.4 * rows), layout="constrained", squeeze=False)
    for axis in axes.flat[len(layers):]:
        axis.set_axis_off()
    for axis, (name, layer) in zip(axes.flat, layers):
        weight = layer.params["weight"]
        stored = layer.children["weight_quantizer"].encode(weight)
        axis.hist(weight.ravel(), bins=100, color=BLUE, density=True)
        scale = np.asarray(stored.scale)
        if scale.size == 1 and len(stored.levels) <= 32:
            for level in stored.levels * float(scale):
                axis.axvline(level, color=RED, linewidth=0.8)
        axis.set_title(f"{name}, {stored.bits} bits", fontsize=10)
        axis.set_yticks([])
        axis.set_xlabel("weight (lines: levels)")
    return figure


def bits(model):
    """Bits of weights and activations, a bar per quantizer; None for a float network."""
    found = bits_of(model)
    if not found:
        return None
    names = [name.removesuffix(".weight_quantizer").removesuffix("_quantizer") for name, _ in found]
    colours = [BLUE if name.endswith("weight_quantizer") else ORANGE for name, _ in found]
    figure, axis = plt.subplots(figsize=(max(6, 0.35 * len(found)), 3.6), layout="constrained")
    axis.bar(range(len(found)), [b for _, b in found], color=colours)
    axis.set_xticks(range(len(found)), names, rotation=90, fontsize=8)
    axis.set_ylabel("bits")
    axis.legend([plt.Rectangle((0, 0), 1, 1, color=c) for c in (BLUE, ORANGE)], ["weights", "activations"])
    return figure
