"""Pictures of a detector: test scenes with predicted and true boxes, and precision over recall."""

import numpy as np
from matplotlib.patches import Rectangle

from ..plot import CYCLE, GREY, ORANGE, save, subplots
from . import metrics
from .boxes import suppress

SHOWN_SCORE = 0.3
SCENES = 12


def detection_plots(folder, detections, split, classes):
    """Write scenes.png and precision_recall.png into folder/plots."""
    plots = folder / "plots"
    plots.mkdir(exist_ok=True)
    save(scenes(detections, split, classes), plots / "scenes.png")
    save(precision_recall(detections, split.labels, classes), plots / "precision_recall.png")


def scenes(detections, split, classes, columns=4):
    """The first SCENES images: what is there (white, dashed) and what is found with a score of SHOWN_SCORE or more.

    Of boxes of several classes in one place only the best is drawn.
    """
    count = min(SCENES, len(split))
    rows = -(-count // columns)
    figure, axes = subplots(rows, columns, (3 * columns, 3.2 * rows), squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for axis, image, objects, found in zip(axes.flat, split.images, split.labels, detections):
        axis.imshow(image.squeeze(), cmap="gray", interpolation="nearest")
        for row in objects[objects[:, 0] >= 0]:
            outline(axis, row[1:5], "white", linestyle="--")
        sure = found[found[:, 5] >= SHOWN_SCORE]
        for row in sure[suppress(np.zeros(len(sure)), sure[:, 1:5])]:
            outline(axis, row[1:5], ORANGE)
            axis.text(row[1], row[2] - 1, f"{classes[int(row[0])]} {row[5]:.2f}", color="black", fontsize=7,
                      va="bottom", bbox={"facecolor": ORANGE, "edgecolor": "none", "pad": 0.8})
    figure.suptitle(f"test scenes: true boxes dashed; found boxes with class and score (from {SHOWN_SCORE} on)",
                    fontsize=10)
    return figure


def outline(axis, box, colour, **style):
    """Draw a box (x1, y1, x2, y2) on an axis that shows its image."""
    x1, y1, x2, y2 = box - 0.5  # the edge 0 is half a pixel before the middle of the first pixel
    axis.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=colour, linewidth=1.3, **style))


def precision_recall(detections, objects, classes):
    """Precision over recall at IoU 0.5, a line per class that has objects; AP in the legend."""
    figure, axis = subplots(size=(7.5, 4.5))
    for kind, name in enumerate(classes):
        curve = metrics.curves(detections, objects, kind, (0.5,))[0]
        if curve.objects:
            axis.step(np.append(0, curve.recall), np.append(1, curve.precision), where="post",
                      color=CYCLE[kind % len(CYCLE)], linestyle="-" if kind < len(CYCLE) else "--",
                      label=f"{name}, AP {metrics.average_precision(curve):.2f}")
    axis.set(xlabel="recall at IoU 0.5", ylabel="precision", xlim=(0, 1.01), ylim=(0, 1.02))
    axis.grid(alpha=0.3, color=GREY)
    if axis.lines:
        axis.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5))
    return figure
