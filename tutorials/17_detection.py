# %% [markdown]
# # 17. Where is it? Detection with few bits
#
# A detector answers with boxes. The network stays what it was, convolutions one after another, and so does all that
# quantizes and lowers it; new are the labels, the loss, and how boxes come out of a map of numbers and are judged.

# %%
import dataclasses

import numpy as np
from lesson import SHORT, fit, float_network, picture, quantized

from minquant import data, plot
from minquant.data import BoxSplit
from minquant.deploy import lower, reference
from minquant.detection import boxes, losses, metrics
from minquant.detection.plots import outline

# %% [markdown]
# ## Scenes
#
# Digits pasted on a coloured background, with clutter. To learn in seconds, all digits are one class here: "digit".
# An object is a row (class, x1, y1, x2, y2, difficult), edges in pixels; class -1 fills the rows that are not used.


# %%
def one_class(split):
    labels = split.labels.copy()
    labels[..., 0] = np.minimum(labels[..., 0], 0)
    return BoxSplit(split.images, labels)


scenes = data.load("digit-scenes", limit=240 if SHORT else 800)
scenes = dataclasses.replace(scenes, classes=("digit",), train=one_class(scenes.train),
                             validation=one_class(scenes.validation), test=one_class(scenes.test))
image_shape = scenes.image_shape
print("images", scenes.train.images.shape, "objects", scenes.train.labels.shape)

# %% [markdown]
# ## From boxes to a map, and back
#
# The network's last convolution gives a map of 12 x 12 cells of 8 x 8 pixels. Each cell has five numbers: the logit of
# "a digit has its middle here", the offset (x, y) of that middle from the middle of the cell, and the logarithm of
# width and height, all in cells.

# %%
objects = scenes.test.labels[:1]
targets = boxes.encode(objects, (12, 12, 5), image_shape)
for kind, x1, y1, x2, y2, _ in objects[0][objects[0, :, 0] >= 0]:
    assert targets.heat[0, int((y1 + y2) / 2 // 8), int((x1 + x2) / 2 // 8), 0] == 1

perfect = np.full((1, 12, 12, 5), -9.0)
perfect[targets.n, targets.i, targets.j] = np.column_stack([np.full(len(targets.n), 9), targets.offset,
                                                            targets.log_size])
found = boxes.decode(perfect, image_shape)[0]
truth = objects[0][objects[0, :, 0] >= 0]
assert np.allclose(np.sort(found[:, 1:5], 0), np.sort(truth[:, 1:5], 0), atol=1e-4)

# %% [markdown]
# ## The loss
#
# Hundreds of cells are empty, two or three are not. The focal loss gives the easy ones little weight: a cell that is
# sure and right, p = 0.01 for nothing, costs 0.01^2 of what the cross-entropy charges. Boxes are compared by their
# intersection over union, and their gradient exists only in the cells that have a digit.

# %%
easy, dz = losses.focal(np.log(np.array([0.01 / 0.99])), np.zeros(1))
assert np.isclose(easy, -0.01 ** 2 * np.log(0.99))
loss, dmaps = losses.detection_loss(np.zeros((1, 12, 12, 5)), objects, image_shape)
assert np.count_nonzero(dmaps[..., 1:].any(-1)) == len(targets.n) and (dmaps[..., 0] != 0).all()

# %% [markdown]
# ## Train it
#
# The same loop as for a classifier: `train_epoch` asks the data set for its task, the task for its loss.

# %%
network, float_map = float_network(scenes, 8 if SHORT else 12, "vgg_detector", batch_size=16, float_lr=4e-3)
print(f"float detector: mAP {float_map:.1%}")
assert float_map > 0.3

# %% [markdown]
# ## One digit, many boxes
#
# Neighbouring cells see the same digit. Non-maximum suppression keeps the best box and drops those that overlap it by
# more than half. Without it every second box of a digit is a false positive, and precision falls.

# %%
outputs = network.forward(scenes.normalise(scenes.test.images[:200]))[0]
labels = scenes.test.labels[:200]
kept = boxes.decode(outputs, image_shape)
everything = boxes.decode(outputs, image_shape, same=1.0)     # nothing overlaps by more than all of it
curves = {name: metrics.curves(detections, labels, 0, (0.5,))[0]
          for name, detections in (("suppressed", kept), ("everything", everything))}
precision = {name: metrics.average_precision(curve) for name, curve in curves.items()}
print("average precision:", {name: f"{value:.1%}" for name, value in precision.items()})
assert sum(map(len, everything)) > sum(map(len, kept)) and precision["suppressed"] > precision["everything"]

# %% [markdown]
# ## Average precision by hand
#
# Rank the boxes of all images by their score. Right or wrong, one after another, gives precision over recall; its area,
# each precision replaced by the best one further right, is the average precision.

# %%
curve = curves["suppressed"]
area = sum((r - before) * curve.precision[i:].max()
           for i, (r, before) in enumerate(zip(curve.recall, np.append(0, curve.recall))))
assert np.isclose(area, precision["suppressed"])

# %% [markdown]
# ## Four bits, and the same boxes from integers
#
# Quantize, train a little, lower. The program's maps are those of the quantized network in float64 to the last bit,
# so its boxes are too.

# %%
model = quantized(network, scenes, "lsq", bits=4)
lsq_map = fit(model, scenes, 2, batch_size=16)
program = lower(model, image_shape, scenes.normalise)
images = scenes.test.images[:10]
integer_maps = program.run(images)
exact_maps = reference.exact_forward(reference.float64(model), scenes.normalise(images).astype(np.float64))[1]
assert np.array_equal(integer_maps, exact_maps)
assert all(map(np.array_equal, boxes.decode(integer_maps, image_shape), boxes.decode(exact_maps, image_shape)))
print(f"4 bits: mAP {lsq_map:.1%}, {program.nbytes():,} bytes, {program.macs():,} multiply-accumulates per scene")
assert lsq_map > float_map - 0.1

# %%
figure, axes = plot.subplots(1, 3, (10, 3.6))
axes[0].imshow(images[0])
for row in boxes.decode(integer_maps[:1], image_shape)[0]:
    if row[5] > 0.3:
        outline(axes[0], row[1:5], plot.ORANGE)
for row in truth:
    outline(axes[0], row[1:5], "white", linestyle="--")
axes[0].set_title("true (dashed), found with 4 bits", fontsize=9)
axes[1].imshow(1 / (1 + np.exp(-integer_maps[0, ..., 0])), cmap="magma", vmin=0, vmax=1)
axes[1].set_title("score of every cell", fontsize=9)
for axis in axes[:2]:
    axis.set_axis_off()
for (name, curve), colour in zip(curves.items(), (plot.BLUE, plot.GREY)):
    axes[2].step(np.append(0, curve.recall), np.append(1, curve.precision), where="post", color=colour,
                 label=f"{name}, AP {precision[name]:.2f}")
axes[2].set(xlabel="recall", ylabel="precision", xlim=(0, 1.02), ylim=(0, 1.05))
axes[2].legend(fontsize=8)
picture(figure, "17_detection")

# %% [markdown]
# ## Exercise
#
# A box of s x s pixels is found one pixel too far right. From which s on does it count as right at IoU 0.5? And at
# 0.95? What follows for small objects? (`solutions/17_detection.py`)
#
# ## What you can now read
#
# - `minquant/detection/boxes.py`, `minquant/detection/losses.py`, `minquant/detection/metrics.py`
# - `minquant/tasks.py`: all that a task adds to a run; `minquant/data/scenes.py`: how scenes are made
