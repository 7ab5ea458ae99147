"""Export a run as a packed integer program:  python -m minquant.export RUN --to mqz"""

import json
import sys
from pathlib import Path

from . import check, data
from .config import ConfigError, Parser
from .deploy import LoweringError, file, lower
from .runs import RunError, load_run, read_config

FORMATS = {"mqz": ".mqz"}


def main(argv=None):
    """Run the command line; return the exit status."""
    parser = Parser(prog="python -m minquant.export", description=__doc__.splitlines()[0])
    parser.add_argument("run", metavar="RUN", help="folder that python -m minquant.train made")
    parser.add_argument("--to", choices=FORMATS, default="mqz", help="mqz: one packed file (default)")
    parser.add_argument("--out", metavar="PATH", help="where to write (default: RUN/model.mqz)")
    parser.add_argument("--overwrite", action="store_true", help="replace PATH if it exists")
    parser.add_argument("--checkpoint", default="best.npz", metavar="FILE", help="best.npz or last.npz")
    parser.add_argument("--data-root", metavar="FOLDER", help="where the data set's files are")
    parser.add_argument("--check", action="store_true",
                        help="compare every activation code with the network in float64, on the whole test set")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    arguments = parser.parse_args(argv)
    try:
        result, text = export(arguments)
    except (ConfigError, data.DataError, RunError, LoweringError, ValueError, OSError, check.BitExactError) as error:
        print(f"minquant.export: error: {error}", file=sys.stderr)
        return 1
    print(json.dumps(result, indent=2) if arguments.json else text)
    return 0


def export(arguments):
    """Lower, write and check as the command line says; return (result dict, the same as text)."""
    out = Path(arguments.out or Path(arguments.run) / f"model{FORMATS[arguments.to]}")
    config = read_config(arguments.run)
    refuse_occupied(out, arguments.overwrite)
    program, model, dataset = lower_run(arguments.run, config, arguments.checkpoint, arguments.data_root)
    agreement = (check.bit_exact(model, program, dataset.test.images, dataset.normalise)
                 if arguments.check else None)
    size = file.save(program, out)
    file.load(out)
    proof = program.info["proof"]
    result = {"file": str(out), "bytes": size, "operations": len(program.ops), "macs": program.macs(), **proof}
    lines = [program.summary(), "",
             f"proof   {proof['thresholds']:,} thresholds, {proof['unproven']} too near a tie for the plain float64 "
             f"sum; of {proof['channels']:,} channels {proof['ladder_channels']:,} keep a ladder, "
             f"{proof['float64_channels']:,} add in float64, the others compute in float32",
             f"file    {out}, {size:,} bytes"]
    if proof["unexamined"]:
        lines.insert(3, f"        {proof['unexamined']:,} thresholds of additions in float64 are exact by "
                        "construction; their distance from ties was not examined")
    if agreement:
        result["check"] = {"images": agreement.images, "codes": agreement.codes, "mismatches": 0}
        lines.append(f"check   {agreement}")
    return result, "\n".join(lines)


def refuse_occupied(out, overwrite):
    """Raise ValueError before any work where `out` exists already or its folder does not."""
    if out.is_dir():
        raise ValueError(f"--out {out} is a folder; name a file")
    if out.exists() and not overwrite:
        raise ValueError(f"{out} exists already; choose another --out, or replace it with --overwrite")
    if not out.parent.is_dir():
        raise ValueError(f"there is no folder {out.parent} to write {out.name} into; make it first")


def lower_run(run, config, checkpoint="best.npz", data_root=None):
    """Return (Program, model, Dataset) of a run folder."""
    dataset = data.load(config.data, data_root, validation=config.validation, seed=config.seed, limit=config.limit)
    model, meta = load_run(run, dataset, checkpoint)
    info = {"data": config.data, "model": config.model, "method": config.method, "bits": config.bits,
            "act_bits": config.act_bits, "epoch": int(meta["epoch"]), "classes": [str(c) for c in dataset.classes]}
    return lower(model, dataset.image_shape, dataset.normalise, info), model, dataset


if __name__ == "__main__":
    sys.exit(main())
