"""Matrix-vector products by look-up of partial sums: the integers of the oracle, within proven bounds."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from int_cases import ISAS

from minquant import intops, kernels

LOOKUP_ISAS = [isa for isa in ISAS if isa in ("avx2", "neon", "numpy")]
SIZES = st.sampled_from([0, 1, 2, 3, 4, 7, 8, 9, 31, 33, 127, 128, 129, 260])


@settings(max_examples=100, deadline=None)
@given(k=SIZES, n=SIZES, bits=st.integers(1, 2), activation_bits=st.integers(1, 8), largest=st.integers(1, 8),
       seed=st.integers(0, 99))
def test_look_ups_give_the_sums_of_the_oracle(k, n, bits, activation_bits, largest, seed):
    rng = np.random.default_rng(seed)
    levels = rng.integers(-largest, largest + 1, 1 << bits)
    codes = rng.integers(0, 1 << bits, (k, n)).astype(np.uint8)
    a = rng.integers(0, 1 << activation_bits, 2 * k).astype(np.uint8)[::2]
    zero = int(rng.integers(0, 1 << activation_bits))
    expected = intops.matmul(a[None], intops.pack_weights(codes, levels, bits), zero)[0]
    for isa in LOOKUP_ISAS:
        w = kernels.pack_lookup(codes, levels, bits, activation_bits, isa=isa)
        assert np.array_equal(kernels.matvec_lookup(a, w, zero), expected)


@pytest.mark.parametrize("isa", LOOKUP_ISAS)
@pytest.mark.parametrize("bits, activation_bits, level", [
    (2, 2, 5), (2, 2, 6), (1, 2, 2), (1, 2, 3), (1, 1, 7), (1, 1, 8), (2, 8, 2), (2, 8, 16), (1, 8, 1), (1, 8, 8),
    (2, 8, -16), (1, 8, -8), (2, 1, 127), (2, 4, -128)])
def test_the_largest_sums_do_not_overflow_at_the_bounds_of_8_and_16_bits(isa, bits, activation_bits, level):
    """Entries up to 31 add in int8, up to 8191 in int16: one table more than the sums take, all of the largest."""
    top = (1 << activation_bits) - 1
    entry = 4 // bits * top * abs(level)
    depth = (127 if entry <= 31 else 32767) // entry
    for groups in {depth - 1, depth, depth + 1, 2 * depth + 1, 700}:
        k = 4 // bits * groups
        w = kernels.pack_lookup(np.zeros((k, 130), np.uint8), [level], bits, activation_bits, isa=isa)
        result = kernels.matvec_lookup(np.full(k, top, np.uint8), w)
        assert np.array_equal(result, np.full(130, k * top * level))


@pytest.mark.parametrize("isa", [isa for isa in LOOKUP_ISAS if isa != "numpy"])
@pytest.mark.parametrize("bits, level", [(2, 17), (1, 9), (3, 1)])
def test_levels_beyond_the_bound_are_refused(isa, bits, level):
    with pytest.raises(ValueError, match="no look-up kernel.*use pack_weights"):
        kernels.pack_lookup(np.zeros((8, 8), np.uint8), [level], bits, isa=isa)


@pytest.mark.parametrize("isa", [isa for isa in ISAS if isa not in LOOKUP_ISAS])
def test_instruction_sets_with_a_dot_product_have_no_look_up_kernel(isa):
    with pytest.raises(ValueError, match=f"no look-up kernel on {isa}"):
        kernels.pack_lookup(np.zeros((8, 8), np.uint8), [1], 2, isa=isa)


@pytest.mark.parametrize("a, message", [
    (np.zeros(8, np.int8), "int8"), (np.zeros(7, np.uint8), "7"), (np.full(8, 4, np.uint8), "as far as 4"),
    (np.zeros((1, 8), np.uint8), "axes")])
def test_wrong_rows_are_refused(a, message):
    w = kernels.pack_lookup(np.zeros((8, 5), np.uint8), [1], 2, 2, isa=LOOKUP_ISAS[0])
    with pytest.raises(ValueError, match=message):
        kernels.matvec_lookup(a, w)
