"""Evaluate a run folder again:  python -m minquant.evaluate RUN"""

import json
import sys

from . import data
from .config import ConfigError, Parser
from .runs import RunError, load_run, read_config
from .training import evaluate


def main(argv=None):
    """Run the command line; return the exit status."""
    parser = Parser(prog="python -m minquant.evaluate", description=__doc__.splitlines()[0])
    parser.add_argument("run", metavar="RUN", help="folder that python -m minquant.train made")
    parser.add_argument("--checkpoint", default="best.npz", metavar="FILE", help="best.npz, last.npz or float.npz")
    parser.add_argument("--data-root", metavar="FOLDER", help="where the data set's files are")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    arguments = parser.parse_args(argv)
    try:
        config = read_config(arguments.run)
        dataset = data.load(config.data, arguments.data_root, validation=config.validation, seed=config.seed,
                            limit=config.limit)
        model, meta = load_run(arguments.run, dataset, arguments.checkpoint)
    except (ConfigError, data.DataError, RunError, ValueError) as error:
        print(f"minquant.evaluate: error: {error}", file=sys.stderr)
        return 1
    loss, accuracy = evaluate(model, dataset.test, dataset.normalise)
    result = {"run": arguments.run, "checkpoint": arguments.checkpoint, "epoch": int(meta["epoch"]),
              "images": len(dataset.test), "loss": loss, "accuracy": accuracy}
    if arguments.json:
        print(json.dumps(result, indent=2))
    else:
        print(f"{arguments.run} ({arguments.checkpoint}, epoch {result['epoch']}): test accuracy {accuracy:.2%}, "
              f"loss {loss:.4f} on {len(dataset.test)} images of {config.data}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
