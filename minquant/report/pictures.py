"""The pictures of the page, each a PNG in a data URI. Drawn from `describe`'s numbers, in the colours of `plot`."""

import base64
import io
from dataclasses import replace

import numpy as np
from matplotlib.image import imsave

from .. import plot
from ..detection import boxes, plots
from ..plot import BLUE, DPI, GREY, ORANGE, RED, subplots
from ..quantize import bits_of
from ..training import predict


def data_uri(figure):
    """A figure as 'data:image/png;base64,...'."""
    file = io.BytesIO()
    figure.savefig(file, dpi=DPI, format="png")
    return _uri(file)


def image_uri(pixels):
    """uint8 pixels (H, W, 1 or 3) as a data URI, one pixel each; the page enlarges them."""
    file = io.BytesIO()
    grey = pixels.shape[2] == 1
    imsave(file, pixels[..., 0] if grey else pixels, cmap="gray" if grey else None, vmin=0, vmax=255, format="png")
    return _uri(file)


def _uri(file):
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode("ascii")


def curves(history, task):
    """[(caption, data URI)]: loss, and accuracy or mAP, over the epochs."""
    figures = []
    for what in ("loss", "accuracy"):
        figure, axis = subplots(size=(5, 3.2))
        plot.curve(axis, history, what, task)
        name = what if what == "loss" else task.metric
        figures.append((f"{name} of training and validation over the epochs", data_uri(figure)))
    return figures


def found_boxes(found, count):
    """[(caption, data URI)]: test images with true and found boxes, and precision over recall on `count` of them."""
    test = found.dataset.test
    split = replace(test, images=test.images[:count], labels=test.labels[:count])
    outputs = predict(found.model, split.images, found.dataset.normalise)
    detections = boxes.decode(outputs, split.images.shape[1:])
    return [("Test images: true boxes dashed, found ones with class and score.",
             data_uri(plots.scenes(detections, split, found.dataset.classes))),
            ("Precision over recall at IoU 0.5, class by class.",
             data_uri(plots.precision_recall(detections, split.labels, found.dataset.classes)))]


def bits(model):
    """[(caption, data URI)] of the bits per quantizer; empty where all but the input's are equal."""
    if len({bits for name, bits in bits_of(model) if name != "input_quantizer"}) < 2:
        return []
    return [("Bits of every quantizer, in the order of the computation.", data_uri(plot.bits(model)))]


def weight_histograms(details):
    """[(caption, data URI)]: a histogram per quantized layer against its levels."""
    return [_histogram(row, "weight" if row["grid"]["scales"] == 1 else "weight / scale of its channel or group",
                       row["grid"].get("scale", 1.0)) for row in details["layers"] if row.get("grid")]


def activation_histograms(details):
    """[(caption, data URI)]: a histogram per activation quantizer against its levels."""
    return [_histogram(row, "activation", 1.0, log=True) for row in details["activations"]]


def _histogram(row, unit, scale, log=False):
    """Bars at the latent values, a line per level (of more than 32 levels only the two ends)."""
    grid = row["grid"]
    edges = np.linspace(grid["low"], grid["high"], len(grid["counts"]) + 1) * scale
    levels = np.array(grid["levels"]) * scale
    figure, axis = subplots(size=(4, 2.4))
    axis.stairs(grid["counts"], edges, fill=True, color=BLUE)
    if log:
        axis.set_yscale("symlog", linthresh=1)
    for level in levels if len(levels) <= 32 else levels[[0, -1]]:
        axis.axvline(level, color=RED, linewidth=0.8)
    axis.set_yticks([])
    axis.set_xlabel(unit)
    axis.set_title(f"{row['name']}, {row['bits']} bits", fontsize=10)
    return f"{row['name']}: {len(levels)} levels", data_uri(figure)


def sensitivity(details):
    """[(caption, data URI)]: the two accuracies per layer beside those of the whole network."""
    found = details["sensitivity"]
    names = list(found["layers"])
    figure, axis = subplots(size=(6, 1.2 + 0.3 * len(names)))
    for key, colour, marker, label in (("only_quantized", BLUE, "o", "only this layer quantized"),
                                       ("only_float", ORANGE, "D", "only this layer float")):
        axis.plot([100 * found["layers"][name][key] for name in names], range(len(names)), marker, color=colour,
                  label=label)
    axis.axvline(100 * found["all_float"], color=BLUE, linestyle="--", linewidth=1, label="all float")
    axis.axvline(100 * found["all_quantized"], color=ORANGE, linestyle=":", linewidth=1.5, label="all quantized")
    axis.set_yticks(range(len(names)), names)
    axis.invert_yaxis()
    axis.margins(y=0.15)
    axis.set_xlabel(f"accuracy on {found['images']} validation images (%)")
    axis.grid(alpha=0.3, color=GREY)
    figure.legend(loc="outside upper center", ncols=2, fontsize=8)
    return [("Dots left of the dashed line: layers that cost accuracy when they alone are quantized. Diamonds right of "
             "the dotted line: layers whose rounding costs accuracy in the quantized network.", data_uri(figure))]
