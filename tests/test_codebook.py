"""Weight-only products: NumPy, the naive loops in C and every instruction set give the same float32 bits."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from int_cases import COMPILED, ISAS

from minquant import codebook, intchecks, kernels

SIZES = st.sampled_from([0, 1, 2, 3, 4, 6, 7, 15, 16, 17, 31, 33, 49, 63, 64, 65, 100])
DEPTHS = st.sampled_from([0, 1, 3, 4, 7, 8, 9, 15, 16, 17, 31, 32, 33, 97])


def case(m, k, n, bits, rng):
    values = rng.standard_normal(1 << bits).astype(np.float32)
    codes = rng.integers(0, 1 << bits, (k, n)).astype(np.uint8)
    return rng.standard_normal((m, k)).astype(np.float32), codes, values


def bits_of(x):
    return x.view(np.uint32)


def naive(a, codes, values):
    """The loops of C, where they are compiled."""
    out = np.empty((len(a), codes.shape[1]), np.float32)
    if COMPILED is None:
        return codebook.matmul_codebook(a, codebook.pack_codebook(codes, values, values.size.bit_length() - 1))
    COMPILED.matmul_codebook_naive(a, codes, values, out)
    return out


@settings(max_examples=120, deadline=None)
@given(m=SIZES, k=DEPTHS, n=SIZES, bits=st.integers(1, 8), seed=st.integers(0, 99))
def test_oracle_naive_loops_and_every_instruction_set_give_the_same_bits(m, k, n, bits, seed):
    rng = np.random.default_rng(seed)
    a, codes, values = case(m, k, n, bits, rng)
    expected = codebook.matmul_codebook(a, codebook.pack_codebook(codes, values, bits))
    assert np.array_equal(bits_of(naive(a, codes, values)), bits_of(expected))
    for isa in ISAS:
        w = kernels.pack_codebook(codes, values, bits, isa=isa)
        assert np.array_equal(bits_of(kernels.matmul_codebook(a, w)), bits_of(expected))
        assert np.array_equal(bits_of(kernels.matmul_codebook(spread(a, rng), w)), bits_of(expected))


def spread(a, rng):
    """The same floats with gaps between the rows, off the alignment of vectors."""
    wide = np.zeros((a.shape[0], a.shape[1] + 3), np.float32)
    wide[:, 1:1 + a.shape[1]] = a
    return wide[:, 1:1 + a.shape[1]]


def naive_convolution(x, codes, values, groups, stride, pads):
    """The loops of C, where they are compiled."""
    bits = values.size.bit_length() - 1
    if COMPILED is None:
        return codebook.conv2d_codebook(x, codebook.pack_codebook(codes, values, bits, groups), stride, pads)
    stride, pads, shape = intchecks.geometry(x.shape, codes.shape, groups, stride, pads)
    out = np.empty((*shape, codes.shape[3]), np.float32)
    COMPILED.conv2d_codebook_naive(x, codes, values, out, groups, stride, (pads[0][0], pads[1][0]))
    return out


def by_fused_multiply_adds(x, codes, values, groups, stride, pads):
    """The definition, one output at a time."""
    x = np.pad(x, ((0, 0), *pads, (0, 0)))
    kh, kw, each, columns = codes.shape
    oh, ow = ((x.shape[i] - codes.shape[i - 1]) // stride[i - 1] + 1 for i in (1, 2))
    out = np.zeros((len(x), oh, ow, columns), np.float32)
    for n, i, j, o in np.ndindex(out.shape):
        first = o // (columns // groups) * each
        patch = x[n, i * stride[0]:i * stride[0] + kh, j * stride[1]:j * stride[1] + kw, first:first + each]
        for a, code in zip(patch.ravel(), codes[..., o].ravel()):
            out[n, i, j, o] = codebook.fused_multiply_add(a, values[code], out[n, i, j, o])
    return out


@settings(max_examples=80, deadline=None)
@given(data=st.data(), bits=st.integers(1, 8), groups=st.sampled_from([1, 2, 3, 17]), seed=st.integers(0, 99))
def test_convolutions_by_oracle_naive_loops_and_every_instruction_set_give_the_same_bits(data, bits, groups, seed):
    rng = np.random.default_rng(seed)
    kh, kw = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 4))
    stride = data.draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    pads = data.draw(st.tuples(*[st.tuples(st.integers(0, 2), st.integers(0, 2))] * 2))
    h, w = data.draw(st.integers(kh, 8)), data.draw(st.integers(kw, 8))
    each, outs = (data.draw(st.sampled_from(sizes)) for sizes in ([1, 2, 3, 8, 17], [1, 3, 16, 33, 65]))
    x = rng.standard_normal((2, h, w, each * groups)).astype(np.float32)
    codes = rng.integers(0, 1 << bits, (kh, kw, each, outs * groups)).astype(np.uint8)
    values = rng.standard_normal(1 << bits).astype(np.float32)
    expected = naive_convolution(x, codes, values, groups, stride, pads)
    oracle = codebook.pack_codebook(codes, values, bits, groups)
    assert np.array_equal(bits_of(codebook.conv2d_codebook(x, oracle, stride, pads)), bits_of(expected))
    for isa in ISAS:
        packed = kernels.pack_codebook(codes, values, bits, groups, isa=isa)
        assert np.array_equal(bits_of(kernels.conv2d_codebook(x, packed, stride, pads)), bits_of(expected))


@pytest.mark.parametrize("groups, each, outs", [(1, 3, 2), (2, 2, 3), (3, 1, 1)])
def test_a_convolution_is_one_chain_per_output(groups, each, outs):
    rng, stride, pads = np.random.default_rng(6), (2, 1), ((1, 0), (2, 1))
    x = rng.standard_normal((2, 4, 3, each * groups)).astype(np.float32)
    codes = rng.integers(0, 4, (3, 2, each, outs * groups)).astype(np.uint8)
    values = rng.standard_normal(4).astype(np.float32)
    expected = by_fused_multiply_adds(x, codes, values, groups, stride, pads)
    for module in (codebook, kernels):
        weights = module.pack_codebook(codes, values, 2, groups)
        assert np.array_equal(bits_of(module.conv2d_codebook(x, weights, stride, pads)), bits_of(expected))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("w_shape, groups, stride, padding", [
    ((3, 3, 40, 70), 1, 1, 1), ((1, 1, 40, 70), 1, 1, 0), ((1, 1, 40, 70), 1, 2, 0), ((3, 3, 1, 40), 40, 1, 1),
    ((3, 3, 20, 6), 2, 2, 1), ((9, 9, 40, 5), 1, 1, 0)])
def test_the_number_of_threads_changes_no_bit_of_a_convolution(isa, w_shape, groups, stride, padding, monkeypatch):
    monkeypatch.setattr(kernels, "SMALL_FLOAT_PRODUCT", 0)
    rng = np.random.default_rng(5)
    x = rng.standard_normal((3, 9, 18, 80)).astype(np.float32)[..., ::2]
    codes, values = rng.integers(0, 16, w_shape).astype(np.uint8), rng.standard_normal(16).astype(np.float32)
    expected = naive_convolution(np.ascontiguousarray(x), codes, values, groups, stride, padding)
    w = kernels.pack_codebook(codes, values, 4, groups, isa=isa)
    for threads in (1, 2, 7):
        assert np.array_equal(bits_of(kernels.conv2d_codebook(x, w, stride, padding, num_threads=threads)),
                              bits_of(expected))


@pytest.mark.parametrize("isa", ISAS)
def test_chunks_of_k_continue_the_same_chain(isa):
    a, codes, values = case(9, 700, 70, 4, np.random.default_rng(1))
    w = kernels.pack_codebook(codes, values, 4, isa=isa)
    expected = naive(a, codes, values)
    assert np.array_equal(bits_of(kernels.matmul_codebook(a, w)), bits_of(expected))
    assert np.array_equal(bits_of(kernels.matmul_codebook(a[:1], w)), bits_of(expected[:1]))


@pytest.mark.parametrize("isa", ISAS)
def test_the_number_of_threads_changes_no_bit(isa, monkeypatch):
    monkeypatch.setattr(kernels, "SMALL_FLOAT_PRODUCT", 0)
    a, codes, values = case(130, 90, 200, 3, np.random.default_rng(2))
    w = kernels.pack_codebook(codes, values, 3, isa=isa)
    alone = kernels.matmul_codebook(a, w, num_threads=1)
    for threads in (2, 3, 5, 16):
        assert np.array_equal(bits_of(kernels.matmul_codebook(a, w, num_threads=threads)), bits_of(alone))


def test_the_result_lies_within_the_stated_distance_of_the_exact_sum():
    a, codes, values = case(20, 1000, 20, 4, np.random.default_rng(3))
    w = values[codes].astype(np.float64)
    result = kernels.matmul_codebook(a, kernels.pack_codebook(codes, values, 4))
    limit = 1000 * 2.0**-24 * (np.abs(a).astype(np.float64) @ np.abs(w)) * 1.01
    assert (np.abs(result - a.astype(np.float64) @ w) <= limit).all()


def test_fused_multiply_adds_round_once():
    """1 + 2^-12 squared is 1 + 2^-11 + 2^-24: less 1 and 2^-11, the last bit is left where nothing rounds early."""
    x = np.array([1 + 2.0**-12], np.float32)
    acc = np.array([-1 - 2.0**-11], np.float32)
    assert codebook.fused_multiply_add(x, x, acc)[0] == 2.0**-24
    assert (x * x + acc)[0] == 0


def test_rounding_to_odd_decides_where_rounding_twice_would_fail():
    """The product is 2^-24 less 2^-64: the sum lies just below a tie of float32, onto which float64 rounds it."""
    x, w = np.array([2.0**-24 * (1 + 2.0**-20)], np.float32), np.array([1 - 2.0**-20], np.float32)
    acc = np.array([1 + 2.0**-23], np.float32)
    twice = np.float32(np.float64(x[0]) * np.float64(w[0]) + np.float64(acc[0]))
    assert twice == np.float32(1 + 2.0**-22)
    assert codebook.fused_multiply_add(x, w, acc)[0] == acc[0]


@pytest.mark.parametrize("isa", ISAS)
def test_powers_of_two_are_a_codebook_and_scale_without_rounding(isa):
    """Weights 0 and +-2^e: float products are exact shifts, int8 products exact sums of shifted codes."""
    rng, exponents = np.random.default_rng(4), np.arange(-3, 4)
    powers = np.concatenate([[0], -(2.0**exponents), 2.0**exponents])
    codes = rng.integers(0, 15, (40, 33)).astype(np.uint8)
    whole = rng.integers(0, 256, (5, 40)).astype(np.float32)
    exact = whole.astype(np.float64) @ powers[codes]
    assert np.array_equal(kernels.matmul_codebook(whole, kernels.pack_codebook(codes, powers, 4, isa=isa)), exact)
    levels = (powers * 8).astype(np.int8)
    sums = kernels.matmul(whole.astype(np.uint8), kernels.pack_weights(codes, levels, 4, isa=isa))
    assert np.array_equal(sums, exact * 8)


def test_infinities_and_not_a_number_pass_through():
    a = np.array([[np.inf, 1], [np.nan, 1], [3e38, 3e38]], np.float32)
    expected = np.array([[np.inf], [np.nan], [np.inf]], np.float32)
    codes = np.zeros((2, 1), np.uint8)
    for module in (codebook, kernels):
        result = module.matmul_codebook(a, module.pack_codebook(codes, [1.0], 1))
        assert np.array_equal(result, expected, equal_nan=True)


@pytest.mark.parametrize("codes, values, bits, message", [
    (np.full((2, 2), 4, np.uint8), np.zeros(4), 2, "code 4 does not fit into bits=2"),
    (np.full((2, 2), 3, np.uint8), np.zeros(3), 2, "code 3 has no value"),
    (np.zeros((2, 2), np.uint8), np.zeros(5), 2, "1 to 4 finite values"),
    (np.zeros((2, 2), np.uint8), [0, np.inf], 1, "1 to 2 finite values"),
    (np.zeros(2, np.uint8), [0, 1], 1, r"give \(K, N\)"), (np.zeros((2, 2), np.uint8), [0], 9, "bits=9")])
def test_wrong_codebooks_are_refused(codes, values, bits, message):
    for module in (codebook, kernels):
        with pytest.raises(ValueError, match=message):
            module.pack_codebook(codes, values, bits)


@pytest.mark.parametrize("a, message", [
    (np.zeros((2, 3)), "float64"), (np.zeros(3, np.float32), r"shape \(3,\)"),
    (np.zeros((2, 4), np.float32), "K must be the same")])
def test_wrong_activations_are_refused_before_any_sum(a, message):
    for module in (codebook, kernels):
        w = module.pack_codebook(np.zeros((3, 5), np.uint8), [1.0], 1)
        with pytest.raises(ValueError, match=message):
            module.matmul_codebook(a, w)


@pytest.mark.parametrize("wrong, message", [
    ({"stride": 0}, "stride"), ({"padding": -1}, "padding"), ({"x": np.zeros((1, 5, 5, 4))}, "float64"),
    ({"x": np.zeros((1, 2, 2, 4), np.float32)}, "does not fit"), ({"x": np.zeros((5, 5, 4), np.float32)}, "NHWC"),
    ({"x": np.zeros((1, 5, 5, 3), np.float32)}, "3 channels")])
def test_wrong_convolutions_are_refused_before_any_sum(wrong, message):
    for module in (codebook, kernels):
        w = module.pack_codebook(np.zeros((3, 3, 4, 5), np.uint8), [1.0], 1)
        with pytest.raises(ValueError, match=message):
            module.conv2d_codebook(**{"x": np.zeros((1, 5, 5, 4), np.float32), "weights": w, **wrong})


def test_weights_of_a_product_and_of_a_convolution_are_not_mistaken_for_one_another():
    for module in (codebook, kernels):
        matrix = module.pack_codebook(np.zeros((4, 5), np.uint8), [1.0], 1)
        kernel = module.pack_codebook(np.zeros((1, 1, 4, 5), np.uint8), [1.0], 1)
        depthwise = module.pack_codebook(np.zeros((1, 1, 1, 4), np.uint8), [1.0], 1, 4)
        with pytest.raises(ValueError, match="takes HWIO"):
            module.conv2d_codebook(np.zeros((1, 5, 5, 4), np.float32), matrix)
        for weights in (kernel, depthwise):
            with pytest.raises(ValueError, match="K must be the same"):
                module.matmul_codebook(np.zeros((2, 4), np.float32), weights)
        with pytest.raises(ValueError, match="5 output channels in 2 groups"):
            module.pack_codebook(np.zeros((1, 1, 4, 5), np.uint8), [1.0], 1, 2)
