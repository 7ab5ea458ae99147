"""Evaluate a run folder or an exported program again:  python -m minquant.evaluate RUN|FILE.mqz"""

import json
import sys
import time
from pathlib import Path

import numpy as np

from . import check, data, kernels
from .config import ConfigError, Parser
from .deploy import file
from .export import load_stored
from .runs import RunError, load_run, read_config
from .summary import table
from .tasks import TASKS
from .training import judge, predict

BATCH, REPEATS = 100, 5


def main(argv=None):
    """Run the command line; return the exit status."""
    parser = Parser(prog="python -m minquant.evaluate", description=__doc__.splitlines()[0])
    parser.add_argument("run", metavar="RUN|FILE.mqz",
                        help="folder that python -m minquant.train made, or file that python -m minquant.export made")
    parser.add_argument("--checkpoint", default="best.npz", metavar="FILE", help="best.npz, last.npz or float.npz")
    parser.add_argument("--data", metavar="NAME", help="data set of a FILE.mqz (default: the one it was trained on)")
    parser.add_argument("--data-root", metavar="FOLDER", help="where the data set's files are")
    parser.add_argument("--threads", type=int, metavar="N", help="threads of a FILE.mqz (default: all cores)")
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
    outputs, task = predict(model, dataset.test.images, dataset.normalise), TASKS[dataset.task]
    loss, accuracy = judge(outputs, dataset.test)
    result = {"run": arguments.run, "checkpoint": arguments.checkpoint, "epoch": int(meta["epoch"]),
              "images": len(dataset.test), "loss": loss, "metric": task.metric, "accuracy": accuracy,
              **task.details(outputs, dataset.test, dataset.classes)}
    return result, (f"{arguments.run} ({arguments.checkpoint}, epoch {result['epoch']}): "
                    f"test {task.metric} {accuracy:.2%}, "
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
    task = TASKS[test.task]
    if len(program.tensors[-1].shape) != task.output_axes:
        raise ConfigError(f"{arguments.run} gives logits of shape {program.tensors[-1].shape} for an image, which is "
                          f"not what --task {task.name} takes; choose its own data set with --data")
    logits = run_batches(program, test.images, arguments.threads)
    loss, accuracy = judge(logits, test)
    result = {"file": arguments.run, "bytes": Path(arguments.run).stat().st_size, "images": len(test),
              "loss": loss, "metric": task.metric, "accuracy": accuracy,
              "isa": kernels.isa(), "threads": arguments.threads or kernels.default_threads(),
              **speed(program, test.images, arguments.threads)}
    text = show(result, name)
    if arguments.check:
        agreement = check_file(program, arguments)
        result["check"] = {"images": agreement.images, "codes": agreement.codes, "mismatches": 0,
                           "backends": agreement.backends}
        text += f"\n\ncheck   {agreement}"
    return result, text


def run_batches(program, images, threads):
    """Logits of all images, BATCH at a time."""
    return np.concatenate([program.run(images[i:i + BATCH], threads) for i in range(0, len(images), BATCH)])


def speed(program, images, threads):
    """Images per second in batches, milliseconds of one image, and where kernels run microseconds per layer.

    Medians of REPEATS runs, after one that is not counted.
    """
    batch = images[:BATCH]
    figures = {"images_per_s": len(batch) / seconds(lambda: program.run(batch, threads)),
               "ms_per_image": 1e3 * seconds(lambda: program.run(images[:1], threads)), "batch": len(batch)}
    if kernels.isa() != "numpy":
        layers = program.profile(batch, threads, REPEATS)
        figures["us_per_image"] = {name: 1e6 * taken / len(batch) for name, taken in layers.items()}
    return figures


def seconds(run):
    """Median duration of a call."""
    run()
    taken = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        run()
        taken.append(time.perf_counter() - started)
    return float(np.median(taken))


def show(result, name):
    """The result of a file as text."""
    lines = [f"{result['file']} ({result['bytes']:,} bytes): test {result['metric']} {result['accuracy']:.2%}, "
             f"loss {result['loss']:.4f} on {result['images']} images of {name}",
             f"{result['images_per_s']:,.0f} images/s in batches of {result['batch']}, {result['ms_per_image']:.3f} ms "
             f"for one image; {result['isa']}, {result['threads']} thread" + "s" * (result["threads"] > 1)]
    layers = result.get("us_per_image")
    if layers is None:
        return "\n".join([*lines, "times of single layers need the compiled kernels"])
    total = sum(layers.values())
    rows = [(layer, f"{us:.2f}", f"{us / total:.0%}") for layer, us in layers.items() if us]
    return "\n".join([*lines, "", table(("layer", "us per image", "share"), rows)])


def check_file(program, arguments):
    """Compare a program with the run it is from on the whole test set."""
    run = arguments.of or Path(arguments.run).parent
    config = read_config(run)
    dataset = dataset_of(config, arguments)
    model, _ = load_stored(run, dataset, arguments.checkpoint)
    return check.bit_exact(model, program, dataset.test.images, dataset.normalise)


if __name__ == "__main__":
    sys.exit(main())
