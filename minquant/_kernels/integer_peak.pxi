# What the machine can do at most, for the benchmarks. Part of integer.pyx.


def machine_products(isa):
    """Run 8-bit multiply-adds of an instruction set in registers; return how many, 0 where there is no such loop."""
    return peak_products(isa_of(isa))


def machine_read(const uint64_t[::1] x):
    """Read an array of a multiple of 16 entries; return their exclusive or."""
    if x.shape[0] % 16 or not x.shape[0]:
        raise ValueError(f"{x.shape[0]} entries; give a multiple of 16")
    return peak_read(&x[0], 8 * x.shape[0])
