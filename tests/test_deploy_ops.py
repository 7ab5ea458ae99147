"""The operations of a Program against loops over single integers, and what they refuse."""

import numpy as np
import pytest

from minquant.deploy.endings import AddRequantize, Logits, Requantize
from minquant.deploy.op import Tensor
from minquant.deploy.ops import Concat, Convolution, Flatten, Linear, MaxPool, PadShortcut, QuantizeInput, SumPool
from minquant.deploy.pack import pack
from minquant.deploy.program import Program


def weights(rng, shape, bits, **more):
    levels = np.sort(rng.choice(np.arange(-127, 128), 2 ** bits, replace=False)).astype(np.int8)
    codes = rng.integers(0, 2 ** bits, shape, dtype=np.uint8)
    return dict(name="layer", inputs=(0,), bits=bits, shape=shape, stream=pack(codes, bits), levels=levels,
                input_levels=np.sort(rng.choice(np.arange(-128, 256), 16, replace=False)).astype(np.int16), **more)


@pytest.mark.parametrize("stride,padding,groups", [(1, 0, 1), (1, 1, 1), (2, 1, 2), (2, 2, 4), (1, 1, 4)])
def test_a_convolution_is_the_sum_over_the_window_of_integer_products(stride, padding, groups):
    rng = np.random.default_rng(groups)
    op = Convolution(**weights(rng, (3, 3, 4 // groups, 8), 3, stride=stride, padding=padding, groups=groups))
    x = rng.integers(0, 16, (2, 6, 5, 4), dtype=np.uint8)
    shape = op.result(Tensor("codes", x.shape[1:], 15)).shape
    found = op.run(x)
    assert found.dtype == np.int32 and found.shape == (2, *shape)
    low, high = op.bounds()
    for n, i, j, o in np.ndindex(found.shape):
        total = 0
        for a, b, c in np.ndindex(3, 3, 4 // groups):
            r, s = i * stride + a - padding, j * stride + b - padding
            if 0 <= r < 6 and 0 <= s < 5:
                channel = o // (8 // groups) * (4 // groups) + c
                total += int(op.input_levels[x[n, r, s, channel]]) * int(op.levels[op.codes[a, b, c, o]])
        assert found[n, i, j, o] == total and low[o] <= total <= high[o]


def test_a_linear_layer_multiplies_levels_and_its_bounds_are_reached():
    rng = np.random.default_rng(1)
    op = Linear(**weights(rng, (7, 3), 4))
    table, w = op.input_levels.astype(int), op.levels.astype(int)[op.codes]
    x = rng.integers(0, 16, (5, 7), dtype=np.uint8)
    np.testing.assert_array_equal(op.run(x), table[x] @ w)
    worst = np.where(w > 0, 15, 0).T.astype(np.uint8)  # levels ascend: the largest where the weight is positive
    assert table[0] < 0 < table[-1]
    np.testing.assert_array_equal(np.diag(op.run(worst)), op.bounds()[1])
    assert (op.magnitude() >= np.abs(op.run(x)).max(0)).all()


def test_sums_beyond_int32_are_refused_and_at_the_bound_taken():
    def linear(k):
        return Linear("fc", (0,), 1, (k, 1), pack(np.zeros(k, np.uint8), 1), np.array([-128], np.int8),
                      np.array([0, 255], np.int16))

    assert linear(65793).result(Tensor("codes", (65793,), 1)).shape == (1,)
    with pytest.raises(ValueError, match="'fc': sums from -2147516160 to 0 exceed int32; use fewer bits"):
        linear(65794).result(Tensor("codes", (65794,), 1))


def test_pooling_padding_and_flattening_do_what_they_say():
    x = np.random.default_rng(2).integers(0, 4, (2, 5, 5, 3), dtype=np.uint8)
    levels = np.array([0, 1, 2, 4], np.int16)
    np.testing.assert_array_equal(MaxPool("m", (0,), 2, 2).run(x)[:, 1, 0], x[:, 2:4, 0:2].max((1, 2)))
    np.testing.assert_array_equal(SumPool("s", (0,), (2, 2), 3, levels).run(x)[:, 1, 0],
                                  levels[x[:, 3:5, 0:2]].sum((1, 2)))
    np.testing.assert_array_equal(SumPool("s", (0,), (5, 5), 0, levels).run(x), levels[x].sum((1, 2)))
    padded = PadShortcut("p", (0,), 5, 2, 1).run(x)
    np.testing.assert_array_equal(padded[..., :3], x[:, ::2, ::2])
    assert (padded[..., 3:] == 1).all()
    np.testing.assert_array_equal(Flatten("f", (0,)).run(x), x.reshape(2, -1))
    for op in (MaxPool("m", (0,), 3, 2), SumPool("s", (0,), (2, 2), 3, levels), SumPool("s", (0,), (5, 5), 0, levels),
               PadShortcut("p", (0,), 5, 2, 1), Flatten("f", (0,))):
        assert op.result(Tensor("codes", (5, 5, 3), 3)).shape == op.run(x).shape[1:]


def test_a_concat_puts_the_channels_of_its_operands_side_by_side_each_through_its_table():
    rng = np.random.default_rng(6)
    operands = [rng.integers(0, 4, (2, 3, 3, channels), dtype=np.uint8) for channels in (1, 4, 2)]
    shapes = [Tensor("codes", x.shape[1:], 3) for x in operands]
    plain = Concat("c", (0, 1, 2))
    assert plain.result(*shapes) == ("codes", (3, 3, 7), 3)
    np.testing.assert_array_equal(plain.run(*operands), np.concatenate(operands, axis=-1))
    tables = rng.integers(0, 200, (3, 256), dtype=np.uint8)
    tables[1], tables[:, 4:] = np.arange(256), 255  # codes that no operand has do not count
    changed = Concat("c", (0, 1, 2), tables)
    found = changed.run(*operands)
    assert changed.result(*shapes).top == tables[:, :4].max() and changed.form() == "table for 3 of 3"
    for at in np.ndindex(found.shape):
        operand, channel = (0, 0) if at[3] < 1 else (1, at[3] - 1) if at[3] < 5 else (2, at[3] - 5)
        assert found[at] == tables[operand, operands[operand][*at[:3], channel]]


@pytest.mark.parametrize("inputs,tables,message", [
    ((1, 2), (0, 0), r"'c': it takes codes, codes, not codes, sums"),
    ((1, 9), (0, 0), r"'c': it reads tensors \(1, 9\)"), ((1, 4), (0, 0), r"'c': it reads tensors \(1, 4\)"),
    ((1, -1), (0, 0), r"'c': it reads tensors"), ((), (0, 0), r"'c': it reads tensors \(\)"),
    ((1, 3), (1, 256), r"'c': tables of shape \(1, 256\) for 2 operands"),
    ((1, 3), (2, 255), r"'c': tables of shape \(2, 255\) for 2 operands"),
    ((1, 3), (0, 256), r"'c': tables of shape \(0, 256\)")])
def test_a_concat_that_does_not_fit_is_refused_by_name(inputs, tables, message):
    with pytest.raises(ValueError, match=message):
        tiny(flatten=Concat("c", inputs, np.zeros(tables, np.uint8)))


def test_operands_of_other_pixels_cannot_be_concatenated():
    image, pooled, vector = (Tensor("codes", shape, 3) for shape in ((4, 4, 2), (2, 4, 2), (2,)))
    for other in (pooled, vector):
        with pytest.raises(ValueError, match=r"'c': its operands \(4, 4, 2\), .* differ in more than their channels"):
            Concat("c", (1, 2)).result(image, other)


def test_pixels_pass_through_the_table_of_their_channel():
    table = np.random.default_rng(3).integers(0, 255, (3, 256), dtype=np.uint8)
    x = np.random.default_rng(4).integers(0, 256, (2, 4, 4, 3), dtype=np.uint8)
    found = QuantizeInput("q", (0,), table).run(x)
    assert all(found[i] == table[i[-1], x[i]] for i in np.ndindex(x.shape))


def test_a_wide_addition_compares_the_float64_value_with_the_boundaries():
    values = np.array([[0.1, -0.2], [0.05, 0.3]])
    op = AddRequantize("a", (0, 1), 2, ("multiply", "add"), np.zeros(2, np.float32), np.zeros(2, np.float32),
                       np.zeros(3, np.float32), np.ones(2, np.uint8), values, np.array([0.0, 0.1, 0.2]),
                       np.array([0.25, 0.75]))
    x, k = np.array([[2, -2], [7, 1]], np.int32), np.array([[0, 2], [2, 0]], np.uint8)
    np.testing.assert_array_equal(op.run(x, k), [[1, 2], [2, 0]])


def tiny(rng=None, **changes):
    """An input table, a convolution, a requantization, a flatten, a linear layer and logits on 2x2 images."""
    rng = np.random.default_rng(0) if rng is None else rng
    conv = weights(rng, (1, 1, 1, 2), 2, stride=1, padding=0, groups=1) | dict(name="conv", inputs=(1,))
    ops = dict(
        input=QuantizeInput("input", (0,), (np.arange(256, dtype=np.uint8) // 16)[None]),
        conv=Convolution(**conv),
        quantizer=Requantize("quantizer", (2,), 3, np.full(2, 0.01, np.float32), np.ones(2, np.float32),
                             np.array([0, -1], np.int8), np.array([[50, 0, -50]], np.int32)),
        flatten=Flatten("flatten", (3,)),
        fc=Linear(**weights(rng, (8, 3), 2) | dict(name="fc", inputs=(4,))),
        logits=Logits("logits", (5,), ("multiply", "add"), np.ones((2, 3))))
    ops.update(changes)
    return Program((2, 2, 1), tuple(ops.values()), {"data": "digits"})


def test_a_program_runs_traces_and_sums_itself_up():
    program = tiny()
    x = np.random.default_rng(5).integers(0, 256, (4, 2, 2, 1), dtype=np.uint8)
    trace = program.trace(x)
    assert list(trace) == ["input", "conv", "quantizer", "flatten", "fc", "logits"]
    np.testing.assert_array_equal(program.run(x), trace["logits"])
    assert program.run(x[:0]).shape == (0, 3) and program.classes == 3
    assert program.macs() == 4 * 2 + 8 * 3 and "ladder in 1 of 2" in program.summary()


@pytest.mark.parametrize("x", [np.zeros((1, 2, 2, 1)), np.zeros((2, 2, 1), np.uint8), np.zeros((1, 1, 2, 2), np.uint8)])
def test_other_images_are_refused_with_what_the_program_takes(x):
    with pytest.raises(ValueError, match=r"takes uint8 pixels \(N, 2, 2, 1\)"):
        tiny().run(x)


@pytest.mark.parametrize("changes,message", [
    ({"flatten": Flatten("flatten", (9,))}, "reads tensors"),
    ({"flatten": Flatten("flatten", (2,))}, "takes codes, not sums"),
    ({"flatten": Flatten("conv", (3,))}, "two operations are called 'conv'"),
    ({"logits": Flatten("last", (3,))}, "gives codes, not logits"),
    ({"flatten": MaxPool("pool", (3,), 5, 1)}, "window of 5 does not fit"),
    ({"logits": Logits("logits", (5,), ("multiply", "power"), np.ones((2, 3)))}, "values do not fit"),
    ({"flatten": PadShortcut("pad", (3,), 1 << 30, 1, 0)}, "values per image"),
])
def test_operations_that_do_not_fit_are_refused_by_name(changes, message):
    with pytest.raises(ValueError, match=message):
        tiny(**changes)
