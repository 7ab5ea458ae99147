"""The methods, one file per paper. `METHODS` is the registry that `--method` and `minquant.quantize` read."""

from difflib import get_close_matches

from .apot import APoT
from .calibration import PTQ
from .cpq import CPQ
from .dgms import DGMS
from .dorefa import PACT, DoReFa
from .dq import DQ
from .gdrq import GDRQ
from .lsq import LSQ
from .minmax import MinMax
from .qnet import QNet
from .rq import RQ, RQST
from .ternary import TWN, Binary

METHODS = {method.name: method for method in (DGMS, GDRQ, CPQ, QNet, DQ, RQ, RQST, MinMax, LSQ, DoReFa, PACT, APoT, TWN,
                                              Binary, PTQ)}


def create(name, **options):
    """Return the method called `name` with its options; an unknown name is a ValueError that lists the nearest."""
    if name not in METHODS:
        near = get_close_matches(name, METHODS, n=3) or sorted(METHODS)
        raise ValueError(f"there is no method '{name}'; did you mean {', '.join(near)}? (all: {', '.join(METHODS)})")
    return METHODS[name](**options)
