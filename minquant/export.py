"""Export a run for inference:  python -m minquant.export RUN --to mqz"""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from . import check, data
from .config import ConfigError, Parser
from .deploy import LoweringError, file, lower
from .deploy.c_project import MARKER, check_project, write_project
from .deploy.onnx_export import check_onnx, export_onnx
from .runs import RunError, load_run, read_config, replacing

BATCH = 100
CHECKED_IMAGES = 500  # at the end of a training; --check takes the whole test set


class Target(NamedTuple):
    """One word of --to.

    name   : of the file or folder, inside the run folder where --out says nothing else;  what : for --help
    write  : (program, path, images) -> figures; makes the file or folder at `path`, where nothing is yet; images,
             uint8 (N, H, W, C), are there for those who store some
    check  : (program, path, images) -> figures; runs what `write` made on the images and compares it with
             program.run(images); raises check.BitExactError
    marker : None where a file is written; of a folder the file by which --overwrite knows one that it may replace
    Figures are a dict of numbers and texts, printed as they are. Both raise ValueError for what cannot be done.
    """

    name: str
    what: str
    write: Callable
    check: Callable
    marker: str | None = None


def write_mqz(program, path, images):
    """The packed file."""
    return {"bytes": file.save(program, path)}


def check_mqz(program, path, images):
    """What the file gives when it is read back."""
    read, count = file.load(path), 0
    for start in range(0, len(images), BATCH):
        logits = program.run(images[start:start + BATCH])
        if not np.array_equal(read.run(images[start:start + BATCH]), logits):
            raise check.BitExactError(f"{path} read back gives other logits than the program that was written")
        count += logits.size
    return {"images": len(images), "logits": count, "mismatches": 0}


TARGETS = {
    "mqz": Target("model.mqz", "one packed file", write_mqz, check_mqz),
    "onnx": Target("model.onnx", "the same integers in ONNX", export_onnx, check_onnx),
    "c": Target("c", "a folder of C99 for a board", write_project, check_project, MARKER),
}


def main(argv=None):
    """Run the command line; return the exit status."""
    arguments = make_parser().parse_args(argv)
    try:
        result, text = export(arguments)
    except (ConfigError, data.DataError, RunError, LoweringError, ValueError, OSError, ImportError,
            check.BitExactError) as error:
        print(f"minquant.export: error: {error}", file=sys.stderr)
        return 1
    print(json.dumps(result, indent=2) if arguments.json else text)
    return 0


def make_parser():
    """The flags of this command."""
    parser = Parser(prog="python -m minquant.export", description=__doc__.splitlines()[0])
    parser.add_argument("run", metavar="RUN", help="folder that python -m minquant.train made")
    words = "; ".join(f"{word}: {target.what}" for word, target in TARGETS.items())
    parser.add_argument("--to", choices=TARGETS, default="mqz", help=f"{words} (default: mqz)")
    parser.add_argument("--out", metavar="PATH", help="where to write (default: in RUN)")
    parser.add_argument("--overwrite", action="store_true", help="replace PATH if it exists")
    parser.add_argument("--checkpoint", default="best.npz", metavar="FILE", help="best.npz or last.npz")
    parser.add_argument("--data-root", metavar="FOLDER", help="where the data set's files are")
    parser.add_argument("--check", action="store_true",
                        help="on the whole test set, compare every activation code with the network in float64, and "
                             "what was written with the program")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    return parser


def export(arguments):
    """Lower, write and check as the command line says; return (result dict, the same as text)."""
    target = TARGETS[arguments.to]
    out = Path(arguments.out or Path(arguments.run) / target.name)
    config = read_config(arguments.run)
    refuse_occupied(out, arguments.overwrite, target.marker)
    dataset = data.load(config.data, arguments.data_root, validation=config.validation, seed=config.seed,
                        limit=config.limit)
    program, model = lower_run(arguments.run, config, dataset, arguments.checkpoint)
    written, checked = write_checked(target, out, program, model, dataset, arguments.check and len(dataset.test))
    proof = program.info["proof"]
    result = {"file": str(out), **written, "operations": len(program.ops), "macs": program.macs(), **proof}
    lines = [program.summary(), "", *proof_lines(proof), f"file    {out}: {figures(written)}"]
    if not program.info["finished"]:
        lines.append(f"note    {arguments.checkpoint} is of epoch {program.info['epoch']}, before the run's end; its "
                     "network has been brought into stored form for this export")
    if checked:
        agreement, of_target = checked
        result["check"] = {"images": agreement.images, "codes": agreement.codes, "mismatches": 0,
                           "backends": agreement.backends, arguments.to: of_target}
        lines += [f"check   {agreement}", f"        {arguments.to} against the program: {figures(of_target)}"]
    return result, "\n".join(lines)


def export_finished(folder, config, dataset):
    """What `minquant.train` does last: RUN/model.mqz, checked on CHECKED_IMAGES; return a dict for its report.

    {"file", "bytes", "images", "codes", "backends"}, or {"refused": why} for what integers cannot express, such as
    float activations. Raises BitExactError, which would be a fault of this program, and what writing raises.
    """
    target = TARGETS["mqz"]
    out = Path(folder) / target.name
    try:
        program, model = lower_run(folder, config, dataset)
    except LoweringError as error:
        return {"refused": str(error)}
    written, (agreement, _) = write_checked(target, out, program, model, dataset, CHECKED_IMAGES)
    return {"file": str(out), **written, "images": agreement.images, "codes": agreement.codes,
            "backends": agreement.backends}


def write_checked(target, out, program, model, dataset, count):
    """Write a program; where count is not 0, check it on the first test images before it gets its name.

    Return (figures of what was written, None or (Agreement with the network, figures of the target's own check)).
    """
    images, checked = dataset.test.images, None
    with replacing(out) as temporary:
        written = target.write(program, temporary, images)
        if count:
            checked = (check.bit_exact(model, program, images[:count], dataset.normalise),
                       target.check(program, temporary, images[:count]))
    return written, checked


def proof_lines(proof):
    """program.info["proof"] in words."""
    lines = [f"proof   {proof['thresholds']:,} thresholds, {proof['unproven']} too near a tie for the plain float64 "
             f"sum; of {proof['channels']:,} channels {proof['ladder_channels']:,} keep a ladder, "
             f"{proof['float64_channels']:,} add in float64, the others compute in float32"]
    if proof["unexamined"]:
        lines.append(f"        {proof['unexamined']:,} thresholds of additions in float64 are exact by "
                     "construction; their distance from ties was not examined")
    return lines


def figures(values):
    """{"flash_bytes": 1234} as "flash bytes 1,234"."""
    return ", ".join(f"{name.replace('_', ' ')} {format(value, ',') if isinstance(value, int) else value}"
                     for name, value in values.items())


def refuse_occupied(out, overwrite, marker=None):
    """Raise ValueError before any work where `out` exists already and may not be replaced, or its folder does not."""
    if out.is_dir():
        if marker is None:
            raise ValueError(f"{out} is a folder; name a file")
        if any(out.iterdir()) and not (out / marker).is_file():
            raise ValueError(f"{out} is a folder of something else (it has no {marker}); name another place")
    occupied = any(out.iterdir()) if out.is_dir() else out.exists()
    if occupied and not overwrite:
        raise ValueError(f"{out} exists already; choose another --out, or replace it with --overwrite")
    if not out.parent.is_dir():
        raise ValueError(f"there is no folder {out.parent} to write {out.name} into; make it first")
    if not os.access(out.parent, os.W_OK):
        raise ValueError(f"the folder {out.parent} cannot be written to; choose another place with --out")


def lower_run(run, config, dataset, checkpoint="best.npz"):
    """Return (Program, model in its stored form) of a run folder."""
    model, meta = load_stored(run, dataset, checkpoint)
    info = {"data": config.data, "model": config.model, "method": config.method, "bits": config.bits,
            "act_bits": config.act_bits, "epoch": int(meta["epoch"]), "finished": bool(meta.get("finished")),
            "classes": [str(c) for c in dataset.classes]}
    return lower(model, dataset.image_shape, dataset.normalise, info), model


def load_stored(run, dataset, checkpoint="best.npz"):
    """(model, meta) of a checkpoint; one from before the run's end is brought into stored form as the end would."""
    model, meta = load_run(run, dataset, checkpoint)
    if not meta.get("finished") and getattr(model, "method", None) is not None:
        model.method.finish(model)
    return model, meta


if __name__ == "__main__":
    sys.exit(main())
