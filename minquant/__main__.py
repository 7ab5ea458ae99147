"""`python -m minquant` lists the verbs."""

import sys

from . import __version__
from .config import nearest

VERBS = {
    "train": "train a network and quantize it; leaves a run folder",
    "evaluate": "evaluate a run folder or an exported program again",
    "report": "where the accuracy and the bytes of a run went: one HTML page",
    "export": "write a run as packed integers or ONNX, and check it",
    "bench": "measure: a training step, layer by layer",
    "kernels": "what is compiled, and what this machine offers",
    "compare": "compare methods at equal effort over bits and seeds",
    "plot": "draw the pictures of a run again",
    "film": "make a film of a run: weights, levels and bits over its epochs",
    "papers": "equation -> line -> test of every paper",
    "data": "which data sets are found, and where",
}


def main(argv):
    """Print the verbs; a word that was meant as one is an error that names the nearest."""
    if argv:
        print(f"minquant: error: write python -m minquant.{nearest(argv[0], VERBS)} ...", file=sys.stderr)
        return 2
    print(f"minquant {__version__}\n\nusage: python -m minquant.VERB [--help]\n")
    for verb, purpose in VERBS.items():
        print(f"  {verb:<10} {purpose}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
