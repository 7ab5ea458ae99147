"""`python -m minquant` lists the verbs."""

from . import __version__

VERBS = {
    "train": "train a network and quantize it; leaves a run folder",
    "evaluate": "evaluate a run folder again",
    "bench": "measure: a training step, layer by layer",
    "kernels": "what is compiled, and what this machine offers",
    "compare": "compare methods at equal effort over bits and seeds",
    "papers": "equation -> line -> test of every paper",
    "data": "which data sets are found, and where",
}

print(f"minquant {__version__}\n\nusage: python -m minquant.VERB [--help]\n")
for verb, purpose in VERBS.items():
    print(f"  {verb:<10} {purpose}")
