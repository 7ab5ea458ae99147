"""Which integer kernels run: the compiled module, and the instruction set that MINQUANT_ISA or the machine chooses."""
import functools
import os

from . import _kernels


@functools.cache
def compiled():
    """The module of integer kernels or None."""
    return _kernels.extension("integer")


@functools.cache
def available():
    """Instruction sets of this machine and build, best first; numpy alone where nothing is compiled.

    They are asked for once: under a hypervisor the processor takes 30 us to say what it has.
    """
    module = compiled()
    return tuple(module.isas()) if module else ("numpy",)


def isa():
    """Instruction set of the integer kernels: MINQUANT_ISA, else the best of this machine; numpy without any.

    Raises ValueError where MINQUANT_ISA names one that this machine or this build does not have.
    """
    module = compiled()
    wanted = module.environment("MINQUANT_ISA") if module else os.environ.get("MINQUANT_ISA", "")
    return chosen(wanted, "MINQUANT_ISA")


def asked_or_active(wanted):
    """The instruction set that an argument `isa` names, else the one in use. Raises ValueError as `isa`."""
    return chosen(wanted, "isa") if wanted else isa()


def chosen(wanted, source):
    """The instruction set `wanted`, or the best where it is empty."""
    if wanted and wanted not in available():
        raise ValueError(f"{source}={wanted!r} is not available; this machine and build have "
                         f"{', '.join(available())}: choose one of them, or leave {source} empty")
    return wanted or available()[0]
