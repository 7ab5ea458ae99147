"""Integer matrix products: oracle, naive loops in C and every instruction set give the same integers."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from int_cases import COMPILED, GRIDS, ISAS, activations, both, grid, packed, requantizer, strided

from minquant import intchecks, intops, kernels

# 0, 1 and around the widths of tiles: 2 to 14 rows, panels of 8 to 32 columns, groups of 1 to 16 along K.
SIZES = st.sampled_from([0, 1, 2, 3, 4, 5, 7, 8, 13, 14, 15, 16, 17, 31, 32, 33, 49, 97])


def naive(a, weights, zero_point):
    """The sums of the naive C loops, where they are compiled."""
    if COMPILED is None:
        return intops.matmul(a, weights, zero_point)
    out = np.empty((len(a), weights.shape[1]), np.int32)
    signed = a.dtype == np.int8
    COMPILED.matmul_naive(a.view(np.uint8), weights.codes, weights.levels, out, zero_point, signed)
    return out


def case(m, k, n, bits, kind, dtype, seed):
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, 1 << bits, (k, n)).astype(np.uint8)
    return activations((m, k), dtype, rng), intops.pack_weights(codes, grid(bits, kind, rng), bits), rng


@settings(max_examples=150, deadline=None)
@given(m=SIZES, k=SIZES, n=SIZES, bits=st.integers(1, 8), kind=st.sampled_from(GRIDS),
       dtype=st.sampled_from([np.uint8, np.int8]), zero=st.integers(-128, 255), seed=st.integers(0, 99))
def test_oracle_naive_loops_and_every_instruction_set_agree(m, k, n, bits, kind, dtype, zero, seed):
    a, weights, rng = case(m, k, n, bits, kind, dtype, seed)
    zero = int(np.clip(zero, np.iinfo(dtype).min, np.iinfo(dtype).max))
    expected = (a.astype(np.int64) - zero) @ weights.levels[weights.codes].astype(np.int64)
    assert np.array_equal(intops.matmul(a, weights, zero), expected)
    assert np.array_equal(naive(a, weights, zero), expected)
    for isa in ISAS:
        w = packed(weights.codes, weights.levels, bits, isa)
        assert np.array_equal(kernels.matmul(a, w, zero), expected)
        assert np.array_equal(kernels.matmul(strided(a, rng), w, zero), expected)


@settings(max_examples=100, deadline=None)
@given(m=SIZES, k=SIZES, n=SIZES, bits=st.integers(1, 8), out_bits=st.integers(1, 8), ladders=st.booleans(),
       kind=st.sampled_from(GRIDS), seed=st.integers(0, 99))
def test_fused_requantization_gives_the_codes_of_the_oracle(m, k, n, bits, out_bits, ladders, kind, seed):
    a, weights, rng = case(m, k, n, bits, kind, np.uint8, seed)
    oracle, compiled = both(requantizer(intops.matmul(a, weights), out_bits, rng, ladders))
    expected = intops.matmul(a, weights, 0, oracle)
    assert expected.max(initial=0) < 1 << out_bits
    for isa in ISAS:
        w = packed(weights.codes, weights.levels, bits, isa)
        assert np.array_equal(kernels.matmul(a, w, 0, compiled), expected)


@pytest.mark.parametrize("isa", ISAS)
def test_ties_round_to_even_on_both_sides_of_every_code(isa):
    acc = np.arange(-3, 520, dtype=np.int32)
    a = np.stack([np.abs(acc) // 2, np.abs(acc) - np.abs(acc) // 2], axis=1).clip(0, 255).astype(np.uint8)
    reached = a.astype(np.int32).sum(axis=1)
    oracle, compiled = both((np.full(20, 0.5), np.zeros(20), 8))
    w = packed(np.ones((2, 20), np.uint8), np.array([0, 1], np.int8), 1, isa)
    expected = np.clip(np.rint(reached * 0.5), 0, 255).astype(np.uint8)[:, None].repeat(20, 1)
    assert np.array_equal(intops.requantize(reached[:, None].repeat(20, 1), oracle), expected)
    assert np.array_equal(kernels.matmul(a, w, 0, compiled), expected)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("rows", [1, 3, 15])
@pytest.mark.parametrize("level", [-128, 127])
def test_the_largest_sums_are_exact_at_the_bound_of_k(isa, rows, level):
    k = intchecks.MAX_K
    w = packed(np.ones((k, 17), np.uint8), np.array([0, level], np.int8), 1, isa)
    high = kernels.matmul(np.full((rows, k), 255, np.uint8), w)
    assert np.array_equal(high, np.full((rows, 17), 255 * level * k))
    low = kernels.matmul(np.zeros((rows, k), np.uint8), w, zero_point=255)
    assert np.array_equal(low, np.full((rows, 17), -255 * level * k))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("rows", [1, 2, 6, 15])
@pytest.mark.parametrize("largest", [1, 2, 3, 8, 9, 16, 17, 64, 65, 127, 128])
def test_sums_held_in_16_bits_do_not_overflow_at_the_largest_level(isa, rows, largest):
    """Around the levels at which a kernel changes how long it adds in int16."""
    for level, bits in ((largest, 2), (-largest, 4), (-largest, 8)):
        if not -128 <= level <= 127:
            continue
        levels = np.array([0, level], np.int8)
        w = packed(np.ones((515, 40), np.uint8), levels, bits, isa)
        result = kernels.matmul(np.full((rows, 515), 255, np.uint8), w)
        assert np.array_equal(result, np.full((rows, 40), 255 * 515 * level))


@settings(max_examples=100, deadline=None)
@given(m=SIZES, k=SIZES, n=SIZES, bits=st.integers(1, 8), activation_bits=st.integers(1, 7),
       kind=st.sampled_from(GRIDS), seed=st.integers(0, 99))
def test_weights_packed_for_fewer_activation_bits_give_the_same_sums(m, k, n, bits, activation_bits, kind, seed):
    a, weights, rng = case(m, k, n, bits, kind, np.uint8, seed)
    a >>= 8 - activation_bits
    zero = int(rng.integers(0, 1 << activation_bits))
    for isa in ISAS:
        w = kernels.pack_weights(weights.codes, weights.levels, bits, activation_bits=activation_bits, isa=isa)
        assert np.array_equal(kernels.matmul(a, w, zero), intops.matmul(a, weights, zero))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("rows", [1, 2, 6, 15])
@pytest.mark.parametrize("activation_bits, largest", [
    (2, 2), (2, 7), (2, 8), (1, 21), (1, 22), (1, 127), (4, 1), (4, 2), (4, 8), (4, 127), (4, 128), (7, 43), (7, 128)])
def test_sums_held_in_8_and_16_bits_do_not_overflow_where_activations_are_narrow(isa, rows, activation_bits, largest):
    """The largest products in a row, at the number of them that 8 and 16 bits hold, and one group beyond."""
    top = (1 << activation_bits) - 1
    held = {127 // (top * largest), 32767 // (top * largest) // 2, 32767 // (2 * top * largest) & ~3}
    for k in {16 * min(groups, 200) + more for groups in held for more in (0, 1, 16, 17)} - {0}:
        levels = np.array([0, -largest], np.int8)
        w = kernels.pack_weights(np.ones((k, 20), np.uint8), levels, 1, activation_bits=activation_bits, isa=isa)
        result = kernels.matmul(np.full((rows, k), top, np.uint8), w)
        assert np.array_equal(result, np.full((rows, 20), -top * largest * k))


@pytest.mark.parametrize("a, zero, message", [
    (np.full((2, 3), 16, np.uint8), 0, "as far as 16.*activation_bits=4.*up to 15"),
    (np.zeros((2, 3), np.int8), 0, "activations int8"), (np.zeros((2, 3), np.uint8), 16, "as far as 16")])
def test_activations_beyond_the_bits_that_weights_were_packed_for_are_refused(a, zero, message):
    for module in (intops, kernels):
        w = module.pack_weights(np.zeros((3, 5), np.uint8), [1], 1, activation_bits=4)
        with pytest.raises(ValueError, match=message):
            module.matmul(a, w, zero)
        with pytest.raises(ValueError, match="activation_bits=9"):
            module.pack_weights(np.zeros((3, 5), np.uint8), [1], 1, activation_bits=9)


def test_k_beyond_the_bound_is_an_error_with_the_limit():
    codes = np.zeros((intchecks.MAX_K + 1, 1), np.uint8)
    for module in (intops, kernels):
        with pytest.raises(ValueError, match=r"K=65794 is beyond 65793"):
            module.pack_weights(codes, np.array([0, 1], np.int8), 1)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("shape", [(1, 600, 700), (130, 77, 200), (700, 40, 33)])
def test_the_number_of_threads_changes_nothing(isa, shape, monkeypatch):
    monkeypatch.setattr(kernels, "SMALL_PRODUCT", 0)
    a, weights, rng = case(*shape, 4, "codebook", np.uint8, 5)
    w = packed(weights.codes, weights.levels, 4, isa)
    oracle, compiled = both(requantizer(intops.matmul(a, weights), 8, rng, ladders=True))
    sums, codes = intops.matmul(a, weights), intops.matmul(a, weights, 0, oracle)
    for threads in (1, 2, 3, 5, 16):
        assert np.array_equal(kernels.matmul(a, w, num_threads=threads), sums)
        assert np.array_equal(kernels.matmul(a, w, 0, compiled, num_threads=threads), codes)


@pytest.mark.parametrize("wrong, message", [
    ({"a": np.zeros((2, 3), np.float32)}, "float32"), ({"a": np.zeros(4, np.uint8)}, "2 axes"),
    ({"a": np.zeros((2, 4), np.uint8)}, "K must be the same"), ({"zero_point": 256}, "zero_point=256"),
    ({"zero_point": -1}, "zero_point=-1"), ({"requantization": [1.0] * 4}, "4 channels for 5")])
def test_wrong_products_are_refused_before_any_sum(wrong, message):
    arguments = {"a": np.zeros((2, 3), np.uint8), **wrong}
    for module in (intops, kernels):
        w = module.pack_weights(np.zeros((3, 5), np.uint8), np.zeros(2, np.int8), 1)
        if "requantization" in wrong:
            arguments["requantization"] = module.requantization(np.ones(4), np.zeros(4), 8)
        with pytest.raises(ValueError, match=message):
            module.matmul(weights=w, **arguments)


@pytest.mark.parametrize("codes, levels, bits, message", [
    (np.full((2, 2), 4, np.uint8), np.zeros(4, np.int8), 2, "code 4 does not fit into bits=2"),
    (np.full((2, 2), 3, np.uint8), np.zeros(3, np.int8), 2, "code 3 has no level"),
    (np.zeros((2, 2), np.uint8), np.zeros(5, np.int8), 2, "1 to 4 levels"),
    (np.zeros((2, 2), np.uint8), np.array([0, 128]), 1, "-128..127"),
    (np.zeros((2, 2), np.uint8), np.array([0, 0.5]), 1, "not integers"),
    (np.zeros((2, 2), np.int8), np.zeros(2, np.int8), 1, "int8"),
    (np.zeros((2, 2), np.uint8), np.zeros(2, np.int8), 9, "bits=9"),
    (np.zeros(2, np.uint8), np.zeros(2, np.int8), 1, r"give \(K, N\)")])
def test_wrong_weights_are_refused(codes, levels, bits, message):
    with pytest.raises(ValueError, match=message):
        kernels.pack_weights(codes, levels, bits)


@pytest.mark.parametrize("arguments, message", [
    (([1.0], [0.0, 0.0], 8), "one per channel"), (([np.inf], [0.0], 8), "not finite"),
    (([1.0], [0.0], 0), "bits=0"),
    (([1.0], [0.0], 8, [1]), "belong together"), (([1.0], [0.0], 1, [1], [[1, 2]]), "at most 1"),
    (([1.0], [0.0], 1, [2], [[1]]), "-1, 0"), (([1.0], [0.0], 1, [1, 1], [[1]]), "1 channels")])
def test_wrong_requantizations_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        kernels.requantization(*arguments)
