"""The compiled kernels: typed Cython wrappers around a C core that knows arrays, not models.

Every kernel has a NumPy twin that is its oracle, so the package works where nothing was compiled.
"""
import importlib
import json
import os
from pathlib import Path

HERE = Path(__file__).parent


def extension(name):
    """The compiled module `name`, or None where it was not built or MINQUANT_NO_EXTENSIONS=1 asks for NumPy.

    Idle OpenMP threads sleep unless the environment says otherwise: spinning, they starve other processes.
    Raises ImportError where the module was built and cannot be loaded: falling back would only be slow.
    """
    if switched_off():
        return None
    full = f"{__name__}.{name}"
    waiting = os.environ.get("OMP_WAIT_POLICY")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read once, when the OpenMP library is loaded
    try:
        return importlib.import_module(full)
    except ModuleNotFoundError as error:
        if error.name == full:
            return None
        raise
    except ImportError as error:
        raise ImportError(f"compiled kernels {full!r} cannot be loaded ({error}); build them again with "
                          "'pip install .', or set MINQUANT_NO_EXTENSIONS=1 to run in NumPy") from error
    finally:
        if waiting is None:
            del os.environ["OMP_WAIT_POLICY"]


def switched_off():
    """Whether MINQUANT_NO_EXTENSIONS asks for NumPy."""
    return os.environ.get("MINQUANT_NO_EXTENSIONS", "0") not in ("", "0")


def build_info():
    """What the build recorded beside the modules: compiler, OpenMP, flags per source; {} if none ran."""
    record = HERE / "_build_info.json"
    return json.loads(record.read_text()) if record.exists() else {}


def default_threads():
    """Threads a kernel starts unless told otherwise: the cores it may use, at most OMP_NUM_THREADS."""
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    first_level = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    return min(cores, int(first_level)) if first_level.isdigit() and int(first_level) else cores
