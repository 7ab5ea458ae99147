"""The number of threads of the numerical libraries, which read it from the environment when they load."""

import os
import sys

from .nn import ops

VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")


def set_threads(threads, module, argv):
    """Let a command use `threads` threads; None changes nothing.

    A program (argv is None) starts itself again with the number in its environment, unless it is there; a call from
    Python (argv is a list) keeps its process, and sets the compiled helpers alone. Raises ValueError below 1.
    """
    if threads is None:
        return
    if threads < 1:
        raise ValueError(f"--threads {threads} does not work; it takes 1 or more")
    if argv is None and any(os.environ.get(name) != str(threads) for name in VARIABLES):
        environment = {**os.environ, **dict.fromkeys(VARIABLES, str(threads))}
        os.execve(sys.executable, [sys.executable, "-m", module, *sys.argv[1:]], environment)
    ops.set_threads(threads)
