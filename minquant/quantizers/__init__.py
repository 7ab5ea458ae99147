"""The methods, one file per paper. `METHODS` is the registry that `--method` and `minquant.quantize` read."""

from difflib import get_close_matches

from .minmax import MinMax

METHODS = {method.name: method for method in (MinMax,)}


def create(name, **options):
    """Return the method called `name` with its options; an unknown name is a ValueError that lists the nearest."""
    if name not in METHODS:
        near = get_close_matches(name, METHODS, n=3) or sorted(METHODS)
        raise ValueError(f"there is no method '{name}'; did you mean {', '.join(near)}? (all: {', '.join(METHODS)})")
    return METHODS[name](**options)
