"""Evaluate a run folder or an exported program again:  python -m minquant.evaluate RUN|FILE.mqz"""

import json
import sys
import time
from pathlib import Path

import numpy as np

from . import check, data
from .config import ConfigError, Parser
from .deploy import file
from .export import load_stored
from .nn import softmax_cross_entropy
from .runs import RunError, load_run, read_config
from .training import evaluate

BATCH = 500


def main(argv=None):
    """Run the command line; return the exit status."""
    parser = Parser(prog="python -m minquant.evaluate", description=__doc__.splitlines()[0])
    parser.add_argument("run", metavar="RUN|FILE.mqz",
                        help="folder that python -m minquant.train made, or file that python -m minquant.export made")
    parser.add_argument("--checkpoint", default="best.npz", metavar="FILE", help="best.npz, last.npz or float.npz")
    parser.add_argument("--data", metavar="NAME", help="data set of a FILE.mqz (default: the one it was trained on)")
    parser.add_argument("--data-root", metavar="FOLDER", help="where the data set's files are")
    parser.add_argument("--check", action="store_true",
                        help="compare every activation code of a FILE.mqz with its network in float64")
    parser.add_argument("--of", metavar="RUN", help="with --check: the run that FILE.mqz is from (default: its folder)")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    arguments = parser.parse_args(argv)
    try:
        is_file = Path(arguments.run).is_file() or Path(arguments.run).suffix == ".mqz"
        result, text = (evaluate_file if is_file else evaluate_run)(arguments)
    except (ConfigError, data.DataError, RunError, ValueError, OSError, check.BitExactError) as error:
        print(f"minquant.evaluate: error: {error}", file=sys.stderr)
        return 1
    print(json.dumps(result, indent=2) if arguments.json else text)
    return 0


def evaluate_run(arguments):
    """Accuracy and loss of a checkpoint; return (result dict, the same as text)."""
    if arguments.check or arguments.data:
        raise ConfigError(f"--check and --data go with a FILE.mqz, and {arguments.run} is a run folder; "
                          f"export it first: python -m minquant.export {arguments.run} --to mqz --check")
    config = read_config(arguments.run)
    dataset = dataset_of(config, arguments)
    model, meta = load_run(arguments.run, dataset, arguments.checkpoint)
    loss, accuracy = evaluate(model, dataset.test, dataset.normalise)
    result = {"run": arguments.run, "checkpoint": arguments.checkpoint, "epoch": int(meta["epoch"]),
              "images": len(dataset.test), "loss": loss, "accuracy": accuracy}
    return result, (f"{arguments.run} ({arguments.checkpoint}, epoch {result['epoch']}): test accuracy {accuracy:.2%}, "
                    f"loss {loss:.4f} on {len(dataset.test)} images of {config.data}")


def dataset_of(config, arguments):
    """The data set of a run's configuration."""
    return data.load(config.data, arguments.data_root, validation=config.validation, seed=config.seed,
                     limit=config.limit)


def evaluate_file(arguments):
    """Accuracy, loss and speed of a program; return (result dict, the same as text)."""
    program = file.load(arguments.run)
    name = arguments.data or program.info.get("data")
    if not isinstance(name, str):
        raise ConfigError(f"{arguments.run} names no data set; choose one with --data")
    test = data.load(name, arguments.data_root).test
    started = time.perf_counter()
    logits = np.concatenate([program.run(test.images[i:i + BATCH]) for i in range(0, len(test), BATCH)])
    seconds = time.perf_counter() - started
    loss, _ = softmax_cross_entropy(logits, test.labels)
    accuracy = float((logits.argmax(1) == test.labels).mean())
    result = {"file": arguments.run, "bytes": Path(arguments.run).stat().st_size, "images": len(test),
              "loss": float(loss), "accuracy": accuracy, "images_per_s": len(test) / seconds, "isa": "numpy"}
    text = (f"{arguments.run} ({result['bytes']:,} bytes): test accuracy {accuracy:.2%}, loss {loss:.4f} "
            f"on {len(test)} images of {name}; {result['images_per_s']:,.0f} images/s (NumPy)")
    if arguments.check:
        agreement = check_file(program, arguments)
        result["check"] = {"images": agreement.images, "codes": agreement.codes, "mismatches": 0}
        text += f"\n{agreement}"
    return result, text


def check_file(program, arguments):
    """Compare a program with the run it is from on the whole test set."""
    run = arguments.of or Path(arguments.run).parent
    config = read_config(run)
    dataset = dataset_of(config, arguments)
    model, _ = load_stored(run, dataset, arguments.checkpoint)
    return check.bit_exact(model, program, dataset.test.images, dataset.normalise)


if __name__ == "__main__":
    sys.exit(main())
