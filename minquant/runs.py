"""The run folder: configuration, log, checkpoints. Files are written to a temporary name and renamed, so that
whatever interrupts a run finds the previous file whole. Checkpoints are .npz without pickles.

    config.toml   the resolved configuration          float.npz  the network before quantization
    log.csv       one line per epoch                  last.npz   the newest epoch: all that --resume needs
    report.json   the result                          best.npz   the best validated, stored form: what is evaluated
    film.npz      a sample of weights per epoch       plots/     pictures
"""

import csv
import io
import json
import os
import shutil
import zipfile
import zlib
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from . import models
from .config import Config, ConfigError, read_toml
from .quantize import quantize

FORMAT = 1
COLUMNS = ("stage", "epoch", "lr", "loss", "accuracy", "validation_loss", "validation_accuracy", "mean_bits")


# What NumPy raises for files that are truncated, of another program, or no archives at all.
UNREADABLE = (OSError, ValueError, KeyError, EOFError, TypeError, AttributeError, zipfile.BadZipFile, zlib.error)


class RunError(RuntimeError):
    """A run folder or checkpoint that cannot be used; the message names the file and the way out."""


@contextmanager
def replacing(path):
    """Yield a temporary path beside `path` for a file or folder to be made at; on success it takes the name (and the
    place of what had it), on error it is removed."""
    path = Path(path)
    temporary, previous = (path.with_name(f".{path.name}.{os.getpid()}.{kind}") for kind in ("tmp", "old"))
    try:
        yield temporary
        if temporary.is_dir() and path.is_dir():  # a folder cannot be renamed over another
            os.rename(path, previous)
        os.replace(temporary, path)
    finally:
        if previous.exists() and not path.exists():
            os.rename(previous, path)
        for leftover in (temporary, previous):
            if leftover.is_dir():
                shutil.rmtree(leftover)
            else:
                leftover.unlink(missing_ok=True)


def write_text(path, text):
    """Write text whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path, value):
    """Write JSON whole or not at all."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def write_log(path, history):
    """log.csv from the history (a list of rows in the order of COLUMNS)."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for stage, epoch, *values in history:
        writer.writerow([("float", "quantized")[int(stage)], int(epoch), *(f"{v:.8g}" for v in values)])
    write_text(path, text.getvalue())


def save_checkpoint(path, model, optimizer=None, **meta):
    """Write params, state and (for a resumable checkpoint) optimizer arrays, with `meta` values beside them."""
    arrays = {f"params/{name}": array for name, array in model.named_params().items()}
    arrays.update({f"state/{name}": array for name, array in model.named_state().items()})
    if optimizer is not None:
        arrays.update({f"optimizer/{name}": array for name, array in optimizer.arrays().items()})
        meta["steps"] = optimizer.steps
    arrays.update({f"meta/{name}": np.asarray(value) for name, value in {"format": FORMAT, **meta}.items()})
    with replacing(path) as temporary:
        with open(temporary, "wb") as file:
            np.savez(file, **arrays)


def read_checkpoint(path):
    """Return {'params': {...}, 'state': {...}, 'optimizer': {...}, 'meta': {...}}; RunError for anything foreign."""
    path = Path(path)
    if not path.is_file():
        raise RunError(f"there is no checkpoint {path}")
    parts = {"params": {}, "state": {}, "optimizer": {}, "meta": {}}
    try:
        with np.load(path, allow_pickle=False) as archive:
            for key in archive.files:
                kind, _, name = key.partition("/")
                parts[kind][name] = archive[key]
        if int(parts["meta"].get("format", FORMAT)) < 0:
            raise ValueError("negative format")
    except UNREADABLE as error:
        raise RunError(f"{path} is not a readable checkpoint of this project ({type(error).__name__}: {error}); "
                       "it is damaged or of another program") from None
    version = parts["meta"].get("format")
    if version is None or int(version) != FORMAT:
        raise RunError(f"{path} has checkpoint format {version}, this version reads {FORMAT}; "
                       "use the version of the project that wrote it")
    return parts


def load_model(model, parts, path):
    """Copy a checkpoint's arrays into a model; a mismatch is a RunError that names the file."""
    try:
        model.load(parts["params"], parts["state"])
    except ValueError as error:
        raise RunError(f"{path} does not fit this model: {error}") from None


def read_config(folder):
    """The configuration of a run folder. Raises RunError where there is none."""
    path = Path(folder) / "config.toml"
    if not path.is_file():
        raise RunError(f"{folder} is not a run folder: it has no config.toml; name a folder that "
                       "'python -m minquant.train' made")
    try:
        return Config(**read_toml(path))
    except ConfigError as error:
        raise RunError(str(error)) from None


def bits_of_run(folder):
    """{layer name: bits of its weights, None where they are float} of a finished run; overrides for another.

    Raises RunError where there is no report.
    """
    path = Path(folder) / "report.json"
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))["layers"]
        return {row["name"]: None if row["bits"] == 32 else row["bits"] for row in rows}
    except (OSError, ValueError, KeyError, TypeError):
        raise RunError(f"{path} is not the report of a finished run; its bits cannot be taken over") from None


def float_model(config, dataset):
    """The freshly initialised float network of a configuration."""
    rng = np.random.default_rng([config.seed, 100])
    return models.build(config.model, dataset.image_shape, len(dataset.classes), rng)


def quantized_model(config, model):
    """The configuration's method applied to a float network."""
    return quantize(model, config.method, bits=config.bits, act_bits=config.act_bits, first_last=config.first_last,
                    overrides=config.overrides, rng=np.random.default_rng([config.seed, 101]), **config.options)


def load_run(folder, dataset, checkpoint="best.npz"):
    """Rebuild the model of a run folder from one of its checkpoints; return (model, meta)."""
    config = read_config(folder)
    path = Path(folder) / checkpoint
    if not path.is_file():
        raise RunError(f"there is no checkpoint {path}; if the run was interrupted, finish it: "
                       f"python -m minquant.train --resume {folder}")
    parts = read_checkpoint(path)
    model = float_model(config, dataset)
    if int(parts["meta"].get("stage", 1)) == 1 and config.method != "float":
        model = quantized_model(config, model)
    load_model(model, parts, path)
    return model, parts["meta"]
