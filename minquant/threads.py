"""The number of threads of the numerical libraries, which read it from the environment when they load."""

import os
import sys

VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")


def restart_with(threads, module, argv):
    """Start `python -m module argv` again with `threads` in the environment, unless it is there or None.

    Raises ValueError unless threads is None or at least 1.
    """
    if threads is None or all(os.environ.get(name) == str(threads) for name in VARIABLES):
        return
    if threads < 1:
        raise ValueError(f"--threads {threads} does not work; it takes 1 or more")
    environment = {**os.environ, **dict.fromkeys(VARIABLES, str(threads))}
    os.execve(sys.executable, [sys.executable, "-m", module, *argv], environment)
