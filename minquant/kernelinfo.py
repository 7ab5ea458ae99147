"""What of the compiled kernels is built, available and active, as plain values and as a table."""
import importlib.machinery
import pkgutil
import platform

import numpy as np

from . import __version__, _kernels
from .cpu import cpu_features
from .isa import compiled, isa


def info():
    """What is compiled and what this machine offers, as a dict of plain values.

    `extensions` maps each compiled module to "ready", "not built" or the reason why it cannot be loaded;
    `in_use` says whether any of them serves this process; `build` is the record of the build (compiler,
    OpenMP, flags per source file), empty where none ran.

    >>> sorted(info())[:4]
    ['build', 'cpu', 'extensions', 'in_use']
    """
    build = _kernels.build_info()
    states = {name: _state(name) for name in sorted({*build.get("extensions", ()), *_modules()})}
    module = None if _kernels.switched_off() or states.get("integer") != "ready" else compiled()
    return {
        "version": __version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "machine": f"{platform.system()} {platform.machine()}",
        "in_use": "ready" in states.values(),
        "switched_off": _kernels.switched_off(),
        "extensions": states,
        "openmp": build.get("openmp", False),
        "threads": _kernels.default_threads(),
        "cpu": cpu_features(),
        "isa": {"active": isa() if module else "numpy", "available": module.isas() if module else [],
                "built": list(module.providers()) if module else []},
        "operations": operations(module),
        "build": build,
    }


# Operations of `minquant.kernels` by the family of code that computes them.
FAMILIES = {"products": ["matmul", "conv2d"], "codebooks": ["matmul_codebook", "conv2d_codebook"],
            "lookups": ["matvec_lookup"],
            "loops": ["conv2d (depthwise)", "max_pool2d", "average_pool2d", "add", "quantize"]}


def operations(module):
    """{operation: {instruction set of this build: whose code it runs, - for none}}; {} without compiled kernels."""
    providers = module.providers() if module else {}
    return {name: {isa: families[family] for isa, families in providers.items()}
            for family, names in FAMILIES.items() for name in names} if module else {}


def _modules():
    """Names of the compiled modules that lie in minquant._kernels, loadable or not."""
    suffixes = tuple(importlib.machinery.EXTENSION_SUFFIXES)
    return [module.name for module in pkgutil.iter_modules(_kernels.__path__)
            if any((_kernels.HERE / (module.name + suffix)).exists() for suffix in suffixes)]


def _state(name):
    if _kernels.switched_off():
        return "switched off by MINQUANT_NO_EXTENSIONS"
    try:
        return "ready" if _kernels.extension(name) else "not built"
    except ImportError as error:
        return str(error)


def _choice(facts):
    """The instruction set in use and the others that are there."""
    others = [name for name in facts["available"] if name != facts["active"]]
    return facts["active"] + (f" (MINQUANT_ISA chooses; also here: {', '.join(others)})" if others else "")


def table(facts):
    """The lines that `python -m minquant.kernels` prints."""
    build = facts["build"]
    rows = [("minquant", facts["version"]), ("python, numpy", f"{facts['python']}, {facts['numpy']}"),
            ("machine", facts["machine"]), ("instruction sets", " ".join(facts["cpu"]) or "none recognised"),
            ("threads", str(facts["threads"])), ("integer kernels", _choice(facts["isa"]))]
    rows += [(f"extension {name}", state) for name, state in facts["extensions"].items()]
    if not facts["in_use"]:
        can_build = not build and not facts["switched_off"]
        remedy = "; to compile them: pip install -e . in the source tree" if can_build else ""
        rows.append(("kernels", f"none in use: every operation runs in NumPy{remedy}"))
    if build:
        rows += [("built with", f"{build['compiler']} on {build['platform']}"),
                 ("OpenMP", "yes" if build["openmp"] else "no: kernels run on one thread")]
        rows += [(f"flags of {source}", " ".join(flags)) for source, flags in build["flags"].items()]
    width = max(len(label) for label, _ in rows)
    lines = [f"{label:<{width}}  {text}" for label, text in rows]
    return "\n".join(lines + _operation_lines(facts))


def _operation_lines(facts):
    """Which code computes each operation on each instruction set; * marks the one in use."""
    isas = facts["isa"]["built"]
    if not isas:
        return []
    names = [name + ("*" if name == facts["isa"]["active"] else "") for name in isas]
    grid = [["operation", *names]] + [[name, *by_isa.values()] for name, by_isa in facts["operations"].items()]
    widths = [max(len(row[i]) for row in grid) for i in range(len(names) + 1)]
    lines = ["  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths)).rstrip() for row in grid]
    absent = [name for name in isas if name not in facts["isa"]["available"]]
    note = f"; not on this machine: {', '.join(absent)}" if absent else ""
    return ["", f"code of which instruction set computes what (* in use{note})", *lines]
