"""Depthwise convolution, pooling, addition, quantization: every instruction set equals the oracle."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from int_cases import GRIDS, ISAS, activations, both, grid, packed, requantizer

from minquant import intops, kernels

CHANNELS = st.sampled_from([1, 2, 3, 15, 16, 17, 32, 49, 64, 67])
DTYPES = st.sampled_from([np.uint8, np.int8])


@pytest.fixture(params=ISAS)
def forced(request, monkeypatch):
    """Run under one instruction set."""
    if request.param != "numpy":
        monkeypatch.setenv("MINQUANT_ISA", request.param)
    return request.param


@settings(max_examples=80, deadline=None)
@given(data=st.data(), channels=CHANNELS, dtype=DTYPES, bits=st.integers(1, 8), kind=st.sampled_from(GRIDS),
       seed=st.integers(0, 99))
def test_depthwise_convolution_equals_the_oracle(data, channels, dtype, bits, kind, seed):
    rng = np.random.default_rng(seed)
    kernel = data.draw(st.tuples(st.integers(1, 5), st.integers(1, 5)))
    stride = data.draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    pads = data.draw(st.tuples(*[st.tuples(st.integers(0, 2), st.integers(0, 2))] * 2))
    height, width = np.array(kernel) + rng.integers(0, 6, 2)
    x = activations((2, height, width, channels), dtype, rng)
    codes = rng.integers(0, 1 << bits, (*kernel, 1, channels)).astype(np.uint8)
    weights = intops.pack_weights(codes, grid(bits, kind, rng), bits, channels)
    zero = int(rng.integers(np.iinfo(dtype).min, np.iinfo(dtype).max + 1))
    expected = intops.conv2d(x, weights, stride, pads, zero)
    oracle, compiled = both(requantizer(expected, 8, rng, ladders=seed % 2))
    expected_codes = intops.conv2d(x, weights, stride, pads, zero, oracle)
    for isa in ISAS:
        w = packed(codes, weights.levels, bits, isa, channels)
        assert np.array_equal(kernels.conv2d(x, w, stride, pads, zero), expected)
        assert np.array_equal(kernels.conv2d(x, w, stride, pads, zero, compiled), expected_codes)


@pytest.mark.parametrize("isa", ISAS)
def test_depthwise_sums_are_exact_at_the_largest_values(isa):
    w = packed(np.ones((31, 31, 1, 33), np.uint8), np.array([0, -128], np.int8), 1, isa, 33)
    sums = kernels.conv2d(np.full((1, 31, 31, 33), 255, np.uint8), w)
    assert np.array_equal(sums, np.full((1, 1, 1, 33), 31 * 31 * 255 * -128))


@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
@pytest.mark.parametrize("size, stride, padding", [
    (2, None, 0), (3, 2, 1), ((1, 3), (2, 1), ((0, 0), (2, 1))), (4, 3, 0)])
def test_pooling_equals_the_oracle(forced, dtype, size, stride, padding):
    rng = np.random.default_rng(0)
    for channels in (1, 16, 35, 64, 130):
        x = activations((2, 9, 7, channels), dtype, rng)
        largest = intops.max_pool2d(x, size, stride, padding)
        assert np.array_equal(kernels.max_pool2d(x, size, stride, padding), largest)
        sums = intops.average_pool2d(x, size, stride, padding)
        assert np.array_equal(kernels.average_pool2d(x, size, stride, padding), sums)
        oracle, compiled = both(requantizer(sums, 4, rng, ladders=channels == 35))
        codes = intops.requantize(sums, oracle)
        assert np.array_equal(kernels.average_pool2d(x, size, stride, padding, compiled), codes)


def test_padding_never_wins_the_maximum(forced):
    x = np.full((1, 2, 2, 3), -128, np.int8)
    assert np.array_equal(kernels.max_pool2d(x, 2, 1, 1), np.full((1, 3, 3, 3), -128, np.int8))


@settings(max_examples=60, deadline=None)
@given(rows=st.sampled_from([0, 1, 5, 64]), channels=CHANNELS, bits=st.integers(1, 8),
       types=st.tuples(DTYPES, DTYPES), one=st.booleans(), seed=st.integers(0, 99))
def test_addition_and_quantization_equal_the_oracle(rows, channels, bits, types, one, seed):
    rng = np.random.default_rng(seed)
    a, b = (activations((rows, channels), dtype, rng) for dtype in types)
    size = None if one else channels
    multipliers = rng.choice([0.25, 0.5, 1 / 3, -0.5], size), rng.choice([0.5, 0.75, 1e-3], size)
    factors = *multipliers, rng.integers(-9, 9, size) / 2
    x = np.concatenate([rng.normal(0, 300, (rows, channels)), np.full((1, channels), np.nan),
                        np.full((1, channels), 3e38), np.full((1, channels), -np.inf)]).astype(np.float32)
    arguments = rng.choice([0.5, 100.0, -0.01], channels), rng.integers(0, 9, channels) / 2, bits
    oracle, compiled = both(arguments)
    summed, quantized = intops.add(a, b, *factors, bits), intops.quantize(x, oracle)
    with pytest.MonkeyPatch.context() as patch:
        for isa in ISAS:
            patch.setenv("MINQUANT_ISA", "" if isa == "numpy" else isa)
            assert np.array_equal(kernels.add(a, b, *factors, bits), summed)
            assert np.array_equal(kernels.quantize(x, compiled), quantized)


def test_addition_rounds_ties_to_even_and_every_step_to_float32(forced):
    a = np.arange(256, dtype=np.uint8).repeat(256).reshape(-1, 16)
    b = np.tile(np.arange(256, dtype=np.uint8), 256).reshape(-1, 16)
    m = np.float32(0.1)
    expected = (a.astype(np.float32) * m + b.astype(np.float32) * np.float32(0.5)) + np.float32(0.5)
    assert np.array_equal(kernels.add(a, b, 0.1, 0.5, 0.5, 7), np.clip(np.rint(expected), 0, 127))


def test_products_and_sums_of_the_requantization_are_rounded_one_after_the_other(forced):
    """A fused multiply-add keeps the rounding error of the product and so leaves the tie."""
    rng = np.random.default_rng(0)
    multiplier = rng.uniform(0.003, 0.005, 67).astype(np.float32)
    for acc, tie in ((200 * 127, 0.5), (250 * 101, 1.5)):
        offset = np.float32(tie) - np.float32(acc) * multiplier
        fused = np.rint(np.float32(acc * multiplier.astype(np.float64) + offset))
        assert (fused != np.rint(tie)).any()
        q = kernels.requantization(multiplier, offset, 8)
        a, level = (200, 127) if tie == 0.5 else (250, 101)
        codes = np.ones((1, 1, 1, 67), np.uint8)
        expected, x = np.full((1, 1, 1, 67), np.rint(tie)), np.full((1, 1, 1, 67), a, np.uint8)
        for w, image in ((kernels.pack_weights(codes, [0, level], 1, 67), x),
                         (kernels.pack_weights(codes, [0, level], 1), x[..., :1])):
            assert np.array_equal(kernels.conv2d(image, w, requantization=q), expected)
        assert np.array_equal(kernels.quantize(np.full((1, 1, 1, 67), acc, np.float32), q), expected)
        summed = kernels.add(np.full(67, 1, np.uint8), np.zeros(67, np.uint8), offset, 1.0, 99.5, 8)
        assert np.array_equal(summed, np.clip(np.rint(offset + np.float32(99.5)), 0, 255))


def test_quantization_counts_not_a_number_as_zero(forced):
    q = kernels.requantization(np.ones(3), np.zeros(3), 4)
    assert np.array_equal(kernels.quantize(np.array([[np.nan, 99.0, 2.5]], np.float32), q), [[0, 15, 2]])


def test_the_number_of_threads_changes_nothing(forced, monkeypatch):
    monkeypatch.setattr(kernels, "SMALL_ARRAY", 0)
    rng = np.random.default_rng(1)
    x = activations((2, 11, 13, 24), np.uint8, rng)
    weights = rng.integers(0, 16, (3, 3, 1, 24)).astype(np.uint8), grid(4, "codebook", rng), 4, 24
    q, w = kernels.requantization(np.full(24, 0.3), np.zeros(24), 8), kernels.pack_weights(*weights)
    alone = [kernels.conv2d(x, w, 1, 1, num_threads=1), kernels.max_pool2d(x, 3, num_threads=1),
             kernels.average_pool2d(x, 3, num_threads=1), kernels.add(x, x, 0.3, 0.4, 0.5, 8, num_threads=1),
             kernels.quantize(x.astype(np.float32), q, num_threads=1)]
    for threads in (2, 3, 16):
        team = [kernels.conv2d(x, w, 1, 1, num_threads=threads),
                kernels.max_pool2d(x, 3, num_threads=threads),
                kernels.average_pool2d(x, 3, num_threads=threads),
                kernels.add(x, x, 0.3, 0.4, 0.5, 8, num_threads=threads),
                kernels.quantize(x.astype(np.float32), q, num_threads=threads)]
        assert all(np.array_equal(one, many) for one, many in zip(alone, team))


@pytest.mark.parametrize("call, message", [
    (lambda m: m.max_pool2d(np.zeros((1, 4, 4, 2), np.uint8), 2, padding=2), "would be empty"),
    (lambda m: m.max_pool2d(np.zeros((1, 4, 4, 2), np.float32), 2), "float32"),
    (lambda m: m.average_pool2d(np.zeros((1, 4, 4, 2), np.uint8), 5), "does not fit"),
    (lambda m: m.average_pool2d(np.zeros((1, 4, 4, 2), np.uint8), 2, None, 0, m.requantization([1], [0], 8)),
     "1 channels for 2"),
    (lambda m: m.add(np.zeros((2, 3), np.uint8), np.zeros((2, 4), np.uint8), 1, 1, 0, 8), "one shape"),
    (lambda m: m.add(np.zeros((2, 3), np.uint8), np.zeros((2, 3), np.uint8), [1, 1], 1, 0, 8), "3 channels"),
    (lambda m: m.add(np.zeros((2, 3), np.uint8), np.zeros((2, 3), np.uint8), np.inf, 1, 0, 8), "not finite"),
    (lambda m: m.quantize(np.zeros((2, 3)), m.requantization([1] * 3, [0] * 3, 8)), "float64"),
    (lambda m: m.quantize(np.zeros((2, 3), np.float32), m.requantization([1], [0], 8)), "channels"),
    (lambda m: m.quantize(np.zeros((2, 1), np.float32), m.requantization([1], [0], 8, [1], [[3]])),
     "thresholds")])
def test_wrong_arguments_are_refused(call, message):
    for module in (intops, kernels):
        with pytest.raises(ValueError, match=message):
            call(module)
