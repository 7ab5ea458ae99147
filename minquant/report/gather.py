"""What a run folder holds, taken as far as it can be read; what cannot is a sentence in `missing`."""

import json
from dataclasses import dataclass, field, fields
from pathlib import Path

import numpy as np

from .. import data, runs
from ..data.sources import source_of
from ..plot import read_log
from ..runs import RunError, load_run, read_checkpoint, read_config
from ..summary import LayerSummary

CHECKPOINTS = ("best.npz", "last.npz", "float.npz")
TOTALS = ("bytes", "float32_bytes", "compression", "macs", "mean_bits")  # of `summary.summarise`


@dataclass(frozen=True)
class Shape:
    """Stands for a data set whose files are not here: enough to build the network, no images."""

    image_shape: tuple
    classes: tuple


@dataclass
class Found:
    """The parts of a run. None, or empty, is what is missing; `missing` says why, a sentence each.

    result : the dict of report.json;  history : rows as in log.csv, numbers in the order of runs.COLUMNS
    dataset : `Dataset`, or only its `Shape`;  model, checkpoint, epoch : the network and where it is from
    """

    folder: Path
    config: object = None
    result: dict = field(default_factory=dict)
    history: list = field(default_factory=list)
    dataset: object = None
    model: object = None
    checkpoint: str = ""
    epoch: int = 0
    missing: list = field(default_factory=list)

    def has_images(self):
        """True where the data set itself is here, not only its shape."""
        return isinstance(self.dataset, data.Dataset)


def gather(folder, checkpoint=None, data_root=None):
    """Return `Found` of a run folder; raises RunError where it holds nothing of a run at all.

    checkpoint : file name, or None for the first readable of best.npz, last.npz, float.npz
    """
    found = Found(Path(folder))
    if not found.folder.is_dir():
        raise RunError(f"there is no folder {folder}; name one that 'python -m minquant.train' made")
    names = ("config.toml", "report.json", "log.csv", *CHECKPOINTS)
    if not any((found.folder / name).is_file() for name in names):
        raise RunError(f"{folder} is not a run folder: it has none of {', '.join(names)}; "
                       "name a folder that 'python -m minquant.train' made")
    for part in (_config, _result, _history):
        part(found)
    if found.config is not None:
        _dataset(found, data_root)
        _model(found, checkpoint)
    return found


def _config(found):
    try:
        found.config = read_config(found.folder)
    except RunError as error:
        found.missing.append(f"{error}: without the configuration no network can be built from the checkpoints")


def _result(found):
    path = found.folder / "report.json"
    if not path.is_file():
        found.missing.append(f"{path.name}: the run has not finished; go on with "
                             f"python -m minquant.train --resume {found.folder}")
        return
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
        numbers = [result[key] for key in ("accuracy", "float_accuracy", *TOTALS)]
        for row in result["layers"]:
            if not isinstance(row["name"], str):
                raise TypeError("a layer without a name")
            numbers += [*row["shape"], *(row[f.name] for f in fields(LayerSummary) if f.type in (int, float))]
        if not all(isinstance(number, (int, float)) for number in numbers):
            raise TypeError("text where numbers should be")
        found.result = result
    except (OSError, ValueError, TypeError, KeyError) as error:
        found.missing.append(f"{path.name} is not the result of a training run ({type(error).__name__}: {error})")


def _history(found):
    """From log.csv, else from the copy inside last.npz."""
    try:
        found.history = read_log(found.folder)
        return
    except RunError as error:
        reason = str(error)
    try:
        rows = np.asarray(read_checkpoint(found.folder / "last.npz")["meta"]["history"], float)
        found.history = rows.reshape(-1, len(runs.COLUMNS)).tolist()
        found.missing.append(f"{reason}; the curves are from last.npz")
    except (RunError, KeyError, ValueError):
        found.missing.append(f"{reason}; there are no curves")


def _dataset(found, data_root):
    config = found.config
    try:
        found.dataset = data.load(config.data, data_root, validation=config.validation, seed=config.seed,
                                  limit=config.limit)
    except data.DataError as error:
        found.missing.append(f"data set: {error}; nothing that needs images is measured")
        try:
            source = source_of(config.data)
            found.dataset = Shape(source.item_shape, source.classes)
        except data.DataError:
            return


def _model(found, checkpoint):
    if found.dataset is None:
        return
    for name in (checkpoint,) if checkpoint else CHECKPOINTS:
        try:
            model, meta = load_run(found.folder, found.dataset, name)
            for parameter, values in {**model.named_params(), **model.named_state()}.items():
                if not np.isfinite(values).all():
                    raise RunError(f"{name}: '{parameter}' holds NaN or infinity")
            found.model, found.checkpoint, found.epoch = model, name, int(meta.get("epoch", 0))
            return
        except (RunError, ValueError, TypeError) as error:
            if isinstance(error, RunError) and not (found.folder / name).is_file():
                error = f"{name}: there is none"
            found.missing.append(str(error))
