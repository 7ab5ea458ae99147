"""What is measured of a network: cost and error per layer, ranges per activation quantizer, predictions."""

import numpy as np

from ..nn import tapped
from ..quantizers.base import Quantizer
from ..summary import as_dicts, summarise
from ..tasks import DETECT
from ..training import judge, predict

BINS = 64
EDGE = 1e-5  # relative: a value that float32 puts just beyond the last level has not been clipped


def sqnr_db(x, quantized):
    """10 log10(sum x^2 / sum (x - quantized)^2), in decibels; None where either sum is 0.

    >>> round(sqnr_db(np.array([1.0, 2.0]), np.array([1.0, 2.5])), 2)
    13.01
    """
    signal, noise = np.sum(np.square(x, dtype=np.float64)), np.sum(np.square(x - quantized, dtype=np.float64))
    return float(10 * np.log10(signal / noise)) if signal > 0 and noise > 0 else None


def histogram(x):
    """Counts of x in BINS equal bins: {"low", "high", "counts"}."""
    counts, edges = np.histogram(x, BINS)
    return {"low": float(edges[0]), "high": float(edges[-1]), "counts": counts.tolist()}


def layers(model, image_shape):
    """([dict per layer with weights], totals): cost as in `summary.summarise`, and the error of the weights.

    bit_operations : multiply-accumulates x bits of the weights x bits of the input, a float counting 32
    sqnr_db        : of the weights as computed with against the latent ones; None where they are float or exact
    grid           : None, or histogram of weight / scale and the levels it is rounded to
    """
    rows, totals = summarise(model, image_shape)
    found = dict(model.named_layers())
    described = as_dicts(rows)
    for row in described:
        row["bit_operations"] = row["macs"] * row["bits"] * row["act_bits"]
        row.update(_weight_error(found[row["name"]]))
    weights = sum(int(np.prod(row.shape)) for row in rows)
    rest = totals["float32_bytes"] - 4 * weights
    totals["weights"] = weights
    totals["int8_bytes"] = weights + 4 * len(rows) + rest  # one float32 scale per layer; biases and norms as they are
    totals["compression_int8"] = totals["int8_bytes"] / totals["bytes"]
    totals["bit_operations"] = sum(row["bit_operations"] for row in described)
    return described, totals


def _weight_error(layer):
    weight, quantizer = layer.params["weight"], layer.children.get("weight_quantizer")
    if quantizer is None:
        return {"sqnr_db": None, "grid": None, "possible_levels": None}
    stored = quantizer.encode(weight)
    used = stored.decode()
    scale = np.asarray(stored.scale)
    if stored.axis is not None:
        scale = scale.reshape([-1 if i == stored.axis % weight.ndim else 1 for i in range(weight.ndim)])
    usable = np.where(scale == 0, 1, scale)
    grid = {**histogram(weight / usable), "levels": stored.levels.astype(float).tolist(), "scales": int(scale.size)}
    if scale.size == 1:
        grid["scale"] = float(usable.reshape(-1)[0])
    return {"sqnr_db": sqnr_db(weight, used), "grid": grid, "possible_levels": len(stored.levels)}


def activations(model, images):
    """[dict per activation quantizer], from what passes through it for `images` (normalised, NHWC).

    smallest, largest : of what comes in;  low, high : lowest and highest level;  step : between the two lowest levels
    clipped : share of the values beyond these two;  levels, zeros : levels used, share of values on level 0
    """
    rows = []

    def record(name, layer, x, y):
        if not isinstance(layer, Quantizer) or name.endswith("weight_quantizer"):
            return
        stairs = layer.staircase()
        levels = stairs.levels.astype(float) * float(stairs.scale)
        inside = (x >= levels[0] - EDGE * abs(levels[0])) & (x <= levels[-1] + EDGE * abs(levels[-1]))
        rows.append({"name": name, "bits": int(layer.bits), "possible_levels": len(levels),
                     "levels": len(np.unique(stairs.codes(x))), "smallest": float(x.min()), "largest": float(x.max()),
                     "low": float(levels[0]), "high": float(levels[-1]),
                     "step": float(levels[1] - levels[0]) if len(levels) > 1 else None,
                     "clipped": float(1 - inside.mean()), "zeros": float((y == 0).mean()),
                     "sqnr_db": sqnr_db(x, y), "grid": {**histogram(x), "levels": levels.tolist(), "scales": 1}})

    with tapped(model, after=record):
        model.forward(images)
    return rows


def detections(model, split, dataset):
    """mAP at IoU 0.5 (as "accuracy"), loss, and what `Detection.details` measures."""
    outputs = predict(model, split.images, dataset.normalise)
    loss, score = judge(outputs, split)
    return {"images": len(split), "accuracy": score, "loss": loss, **DETECT.details(outputs, split, dataset.classes)}


def predictions(model, split, dataset, worst=24):
    """Accuracy, loss, confusion matrix (rows: labels, columns: predictions), and the most expensive mistakes.

    A mistake is {"image": index in the split, "label", "predicted", "loss" in nats, "probability" of the prediction}.
    """
    logits = predict(model, split.images, dataset.normalise).astype(np.float64)
    shifted = logits - logits.max(1, keepdims=True)
    log_probability = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    rows, guess = np.arange(len(split)), logits.argmax(1)
    loss = -log_probability[rows, split.labels]
    confusion = np.zeros((len(dataset.classes),) * 2, int)
    np.add.at(confusion, (split.labels, guess), 1)
    wrong = np.flatnonzero(guess != split.labels)
    wrong = wrong[np.argsort(-loss[wrong], kind="stable")][:worst]
    return {"images": len(split), "accuracy": float((guess == split.labels).mean()), "loss": float(loss.mean()),
            "confusion": confusion.tolist(),
            "mistakes": [{"image": int(i), "label": int(split.labels[i]), "predicted": int(guess[i]),
                          "loss": float(loss[i]), "probability": float(np.exp(log_probability[i, guess[i]]))}
                         for i in wrong]}
