"""All measurements of a run as one dict: what details.json holds and the pages show."""

import math
from dataclasses import asdict, replace

import numpy as np

from .. import __version__
from ..quantizers import METHODS
from ..quantizers.base import quantizers
from ..runs import COLUMNS
from ..summary import input_quantizers
from ..tasks import CLASSIFY, TASKS
from ..training import STAGES
from . import measure
from .gather import TOTALS
from .sensitivity import sensitivity

IMAGES = 500  # of the validation split, for sensitivity and activations
WORK = 5e10  # multiply-accumulates that the sensitivity, and the test set, may cost: some ten seconds
LEAST_IMAGES = 50
ACTIVATION_IMAGES = 200  # their activations are in memory at once


def describe(found, images=None):
    """Measure a `Found` run; return a dict that JSON can hold. Adds to `found.missing` what could not be measured.

    images : validation images for the sensitivity; None takes 500, fewer where the network is large
    """
    details = {"version": __version__, "run": found.folder.name, "checkpoint": found.checkpoint, "epoch": found.epoch,
               "configuration": asdict(found.config) if found.config else {}, "method": _method(found),
               "metric": (TASKS[found.config.task] if found.config else CLASSIFY).metric,
               "classes": [str(c) for c in found.dataset.classes] if found.dataset else [],
               "accuracy": _accuracies(found), "layers": [], "totals": {}, "activations": [], "sensitivity": None,
               "test": None, "curves": _curves(found.history)}
    if found.model is not None:
        _attempt(found, "layers", lambda: details.update(_layers(found)))
        if found.has_images() and details["totals"]:
            _attempt(found, "test set", lambda: details.update(test=_test(found, details)))
            _attempt(found, "activations", lambda: details.update(_activations(found)))
            _attempt(found, "sensitivity", lambda: details.update(sensitivity=_sensitivity(found, details, images)))
    elif found.result:
        details.update(layers=found.result["layers"], totals={key: found.result[key] for key in TOTALS})
    details["missing"] = list(found.missing)
    return _finite(details)


def _attempt(found, what, measurement):
    """A measurement that a damaged network refuses is missing, and the others are still made."""
    try:
        measurement()
    except (ValueError, RuntimeError, TypeError, FloatingPointError) as error:
        found.missing.append(f"{what}: {error}")


def _method(found):
    name = found.config.method if found.config else found.result.get("method", "")
    recipe = METHODS.get(name)
    return {"name": name, "title": recipe.title if recipe else "", "paper": recipe.paper if recipe else "",
            "learns": recipe.learns if recipe else ""}


def _accuracies(found):
    keys = ("float_accuracy", "accuracy", "loss", "validation_accuracy", "best_epoch")
    return {key: found.result.get(key) for key in keys}


def _curves(history):
    return [{**dict(zip(COLUMNS, row)), "stage": STAGES[int(row[0])], "epoch": int(row[1])} for row in history]


def _layers(found):
    rows, totals = measure.layers(found.model, found.dataset.image_shape)
    before = input_quantizers(found.model)
    for row in rows:
        row["input"] = before[row["name"]]
    return {"layers": rows, "totals": totals}


def _activations(found):
    if not quantizers(found.model):
        return {}
    split = _first(_validation(found), ACTIVATION_IMAGES)
    rows = measure.activations(found.model, found.dataset.normalise(split.images))
    return {"activations": rows, "activation_images": len(split)}


def _test(found, details):
    test = found.dataset.test
    split = _first(test, _affordable(details["totals"]["macs"], len(test)))
    judged = measure.predictions if split.task == "classify" else measure.detections
    result = {**judged(found.model, split, found.dataset), "of": len(test)}
    said = found.result.get("accuracy")
    if (said is not None and found.checkpoint == "best.npz" and len(split) == len(test)
            and abs(said - result["accuracy"]) > 0.5 / len(test)):
        found.missing.append(f"report.json says {said:.2%}, {found.checkpoint} gives {result['accuracy']:.2%}: they "
                             "are not of one training, or the images have changed; shown is what was measured now")
    return result


def _sensitivity(found, details, images):
    evaluations = 2 * len(details["layers"]) + 2
    count = images or _affordable(details["totals"]["macs"] * evaluations, IMAGES)
    return sensitivity(found.model, _first(_validation(found), count), found.dataset)


def _affordable(macs, most):
    """How many images of so many multiply-accumulates WORK allows, from LEAST_IMAGES to `most`."""
    return max(min(LEAST_IMAGES, most), min(most, int(WORK / macs)))


def _validation(found):
    split = found.dataset.validation
    return split if len(split) else found.dataset.train


def _first(split, count):
    return replace(split, images=split.images[:count], labels=split.labels[:count])


def _finite(value):
    """The same with None for NaN and infinity, which JSON does not have, and plain numbers for NumPy's."""
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
