"""Convolutions of codes: oracle, naive loops in C and every instruction set give the same integers."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from int_cases import COMPILED, GRIDS, ISAS, activations, both, grid, packed, requantizer

from minquant import intchecks, intops, kernels


def case(x_shape, w_shape, groups, bits, kind, dtype, seed):
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, 1 << bits, w_shape).astype(np.uint8)
    weights = intops.pack_weights(codes, grid(bits, kind, rng), bits, groups)
    return activations(x_shape, dtype, rng), weights, rng


def by_loops(x, weights, stride, pads, zero_point):
    """The definition, one output at a time."""
    kh, kw, each, columns = weights.shape
    levels, x = weights.levels[weights.codes].astype(np.int64), x.astype(np.int64) - zero_point
    x = np.pad(x, ((0, 0), *pads, (0, 0)))
    oh, ow = ((x.shape[i] - weights.shape[i - 1]) // stride[i - 1] + 1 for i in (1, 2))
    out = np.zeros((len(x), oh, ow, columns), np.int64)
    for n, i, j, o in np.ndindex(out.shape):
        first = o // (columns // weights.groups) * each
        patch = x[n, i * stride[0]:i * stride[0] + kh, j * stride[1]:j * stride[1] + kw, first:first + each]
        out[n, i, j, o] = (patch * levels[..., o]).sum()
    return out


def naive(x, weights, stride, pads, zero_point):
    """The sums of the naive C loops, where they are compiled."""
    if COMPILED is None:
        return intops.conv2d(x, weights, stride, pads, zero_point)
    strides, pads, shape = intchecks.geometry(x.shape, weights.shape, weights.groups, stride, pads)
    out = np.empty((*shape, weights.shape[3]), np.int32)
    COMPILED.conv2d_naive(x.view(np.uint8), weights.codes, weights.levels, out, weights.groups, strides,
                          (pads[0][0], pads[1][0]), zero_point, x.dtype == np.int8)
    return out


@settings(max_examples=120, deadline=None)
@given(data=st.data(), bits=st.integers(1, 8), kind=st.sampled_from(GRIDS), groups=st.sampled_from([1, 2, 3]),
       dtype=st.sampled_from([np.uint8, np.int8]), seed=st.integers(0, 99))
def test_oracle_naive_loops_and_every_instruction_set_agree(data, bits, kind, groups, dtype, seed):
    kh, kw = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 4))
    stride = data.draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    pads = data.draw(st.tuples(*[st.tuples(st.integers(0, 2), st.integers(0, 2))] * 2))
    h, w = data.draw(st.integers(kh, 8)), data.draw(st.integers(kw, 8))
    each, outs = (data.draw(st.sampled_from(sizes)) for sizes in ([1, 2, 3, 4, 8, 17], [1, 3, 8, 16, 33]))
    x, weights, rng = case((2, h, w, each * groups), (kh, kw, each, outs * groups), groups, bits, kind, dtype,
                           seed)
    zero = int(rng.integers(np.iinfo(dtype).min, np.iinfo(dtype).max + 1))
    expected = by_loops(x, weights, stride, pads, zero)
    assert np.array_equal(intops.conv2d(x, weights, stride, pads, zero), expected)
    assert np.array_equal(naive(x, weights, stride, pads, zero), expected)
    oracle, compiled = both(requantizer(expected, 8, rng, ladders=seed % 2))
    codes = intops.conv2d(x, weights, stride, pads, zero, oracle)
    for isa in ISAS:
        packed_weights = packed(weights.codes, weights.levels, bits, isa, groups)
        assert np.array_equal(kernels.conv2d(x, packed_weights, stride, pads, zero), expected)
        assert np.array_equal(kernels.conv2d(x, packed_weights, stride, pads, zero, compiled), codes)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("w_shape, stride, padding", [
    ((3, 3, 16, 16), 1, 1), ((3, 3, 16, 32), 2, 1), ((1, 1, 16, 32), 2, 0), ((1, 1, 16, 40), 1, 0),
    ((5, 5, 16, 6), 1, 2), ((7, 7, 16, 24), 2, 3)])
def test_layers_of_real_networks_match_the_oracle_at_any_number_of_threads(isa, w_shape, stride, padding,
                                                                           monkeypatch):
    monkeypatch.setattr(kernels, "SMALL_PRODUCT", 0)
    for bits in (2, 4, 8):
        x, weights, rng = case((5, 19, 17, 16), w_shape, 1, bits, "codebook", np.uint8, 3)
        w = packed(weights.codes, weights.levels, bits, isa)
        oracle, compiled = both(requantizer(intops.conv2d(x, weights, stride, padding), 4, rng))
        expected = intops.conv2d(x, weights, stride, padding, 7, oracle)
        for threads in (1, 2, 7, 16):
            codes = kernels.conv2d(x, w, stride, padding, 7, compiled, num_threads=threads)
            assert np.array_equal(codes, expected)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("kernel, padding", [(1, ((0, 1), (0, 0))), (1, 1), (3, 0), (3, 1), (5, 2)])
def test_lines_of_small_images_whatever_their_width_match_the_oracle(isa, kernel, padding):
    for seed, (height, width) in enumerate(np.ndindex(12, 17)):
        if padding == 0 and min(height, width) + 1 < kernel:
            continue
        bits = (1, 2, 4, 8)[seed % 4]
        x, weights, rng = case((1 + seed % 3, height + 1, width + 1, 4), (kernel, kernel, 4, (3, 40)[seed % 2]), 1, bits,
                               "codebook", np.uint8, seed)
        expected = intops.conv2d(x, weights, 1, padding, 7)
        oracle, compiled = both(requantizer(expected, 4, rng))
        w = packed(weights.codes, weights.levels, bits, isa)
        assert np.array_equal(kernels.conv2d(x, w, 1, padding, 7), expected)
        assert np.array_equal(kernels.conv2d(x, w, 1, padding, 7, compiled),
                              intops.conv2d(x, weights, 1, padding, 7, oracle))


@pytest.mark.parametrize("isa", ISAS)
def test_padding_with_the_zero_point_adds_nothing(isa):
    x = np.full((1, 3, 3, 4), 200, np.uint8)
    w = packed(np.ones((3, 3, 4, 2), np.uint8), np.array([0, -128], np.int8), 1, isa)
    assert not kernels.conv2d(x, w, padding=2, zero_point=200).any()


@pytest.mark.parametrize("isa", ISAS)
def test_views_with_any_strides_are_taken(isa):
    x, weights, _ = case((2, 8, 9, 12), (3, 3, 4, 5), 1, 4, "uniform", np.uint8, 0)
    w = packed(weights.codes, weights.levels, 4, isa)
    view = x[::-1, ::2, :, 1::3]
    assert np.array_equal(kernels.conv2d(view, w), intops.conv2d(np.ascontiguousarray(view), weights))


@pytest.mark.parametrize("wrong, message", [
    ({"stride": 0}, "stride"), ({"padding": -1}, "padding"), ({"stride": (1, 2, 3)}, "one or two"),
    ({"x": np.zeros((1, 2, 2, 4), np.uint8)}, "does not fit"),
    ({"x": np.zeros((1, 5, 5, 3), np.uint8)}, "3 channels"),
    ({"x": np.zeros((1, 5, 5, 4))}, "float64"), ({"zero_point": 300}, "zero_point=300")])
def test_wrong_convolutions_are_refused(wrong, message):
    for module in (intops, kernels):
        w = module.pack_weights(np.zeros((3, 3, 4, 5), np.uint8), np.zeros(2, np.int8), 1)
        with pytest.raises(ValueError, match=message):
            module.conv2d(**{"x": np.zeros((1, 5, 5, 4), np.uint8), "weights": w, **wrong})


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_long_lines_of_a_depthwise_convolution_match_the_oracle(isa, stride):
    rng = np.random.default_rng(stride)
    for channels, width in ((2, 22), (15, 30), (16, 39), (17, 24), (32, 28), (32, 29), (33, 31), (64, 23), (65, 36),
                            (110, 25)):
        codes, levels = rng.integers(0, 256, (3, 3, 1, channels)).astype(np.uint8), np.arange(256) - 128
        x = rng.integers(0, 256, (2, 9, width, channels)).astype(np.uint8)
        m, o = rng.normal(0, 1e-3, channels).astype(np.float32), rng.normal(99, 50, channels).astype(np.float32)
        oracle = intops.pack_weights(codes, levels, 8, channels)
        weights = kernels.pack_weights(codes, levels, 8, channels, isa=isa)
        beyond_int32 = np.where(m < 0, -1e32, 1e32)
        for form in (None, (m, o, 8), (m / 32, o / 32, 3), (beyond_int32, o, 8)):
            ours, theirs = (form and module.requantization(*form) for module in (kernels, intops))
            np.testing.assert_array_equal(kernels.conv2d(x, weights, stride, 1, 131, ours),
                                          intops.conv2d(x, oracle, stride, 1, 131, theirs))
