"""python -m minquant.bench WHAT [--help]: measure one part of the project on this machine."""

import argparse
import importlib
import sys

from ..threads import set_threads

# Sub-command -> what it measures; the module of the same name in this folder does it.
COMMANDS = {"train": "one training step: time, where it goes, memory, beside PyTorch where that is installed",
            "kernels": "integer kernels: time and rate by shape, width and instruction set, beside onnxruntime",
            "networks": "whole networks in one call, by bits, batch and threads, beside other engines"}


def main(argv=None):
    """Run one sub-command; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m minquant.bench", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="WHAT")
    for name, purpose in COMMANDS.items():
        command = commands.add_parser(name, help=purpose, description=purpose)
        module = importlib.import_module(f".{name}", __package__)
        module.add_arguments(command)
        command.add_argument("--threads", type=positive, metavar="N", help="threads of every contestant")
        command.add_argument("--json", action="store_true", help="print one JSON object instead of tables")
        command.set_defaults(run=module.run)
    arguments = parser.parse_args(argv)
    set_threads(arguments.threads, "minquant.bench", argv)
    try:
        return arguments.run(arguments)
    except ValueError as error:
        parser.error(str(error))


def positive(text):
    """argparse type: an integer of at least 1."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive integer")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
