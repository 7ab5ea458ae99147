"""The public face of the compiled kernels: what was built, with what, and what this machine offers.

    python -m minquant.kernels [--json]
"""
import argparse
import importlib.machinery
import json
import pkgutil
import platform
import subprocess

import numpy

from . import __version__, _kernels

# Instruction sets the kernels know: the name used here -> the word in /proc/cpuinfo, below the key of sysctl.
CPU_FEATURES = {
    "avx2": "avx2", "fma": "fma", "avx512f": "avx512f", "avx512bw": "avx512bw", "avx512vnni": "avx512_vnni",
    "avxvnni": "avx_vnni", "neon": "asimd", "dotprod": "asimddp", "i8mm": "i8mm",
}
MACOS_FEATURES = {
    "avx2": "hw.optional.avx2_0", "fma": "hw.optional.fma", "avx512f": "hw.optional.avx512f",
    "avx512bw": "hw.optional.avx512bw", "avx512vnni": "hw.optional.avx512vnni", "neon": "hw.optional.neon",
    "dotprod": "hw.optional.arm.FEAT_DotProd", "i8mm": "hw.optional.arm.FEAT_I8MM",
}


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
    return {
        "version": __version__,
        "python": platform.python_version(),
        "numpy": numpy.__version__,
        "machine": f"{platform.system()} {platform.machine()}",
        "in_use": "ready" in states.values(),
        "switched_off": _kernels.switched_off(),
        "extensions": states,
        "openmp": build.get("openmp", False),
        "threads": _kernels.default_threads(),
        "cpu": cpu_features(),
        "build": build,
    }


def cpu_features():
    """Those of the instruction sets in CPU_FEATURES that the operating system reports, in that order."""
    if platform.system() == "Darwin":
        keys = subprocess.run(["sysctl", "hw.optional"], capture_output=True, text=True).stdout
        present = {line.partition(":")[0] for line in keys.splitlines() if line.endswith(": 1")}
        return [name for name, key in MACOS_FEATURES.items() if key in present]
    try:
        with open("/proc/cpuinfo") as lines:
            words = next((line.split() for line in lines if line.startswith(("flags", "Features"))), [])
    except OSError:
        return []
    return [name for name, word in CPU_FEATURES.items() if word in words]


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


def _table(facts):
    """The lines that `python -m minquant.kernels` prints."""
    build = facts["build"]
    rows = [("minquant", facts["version"]), ("python, numpy", f"{facts['python']}, {facts['numpy']}"),
            ("machine", facts["machine"]), ("instruction sets", " ".join(facts["cpu"]) or "none recognised"),
            ("threads", str(facts["threads"]))]
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
    return "\n".join(f"{label:<{width}}  {text}" for label, text in rows)


def main(arguments=None):
    """Print `info()` as a table, or as JSON."""
    parser = argparse.ArgumentParser(prog="python -m minquant.kernels", description=main.__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    facts = info()
    print(json.dumps(facts, indent=1) if parser.parse_args(arguments).json else _table(facts))


if __name__ == "__main__":
    main()
