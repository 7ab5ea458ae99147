"""Every layer: gradients, values worked by hand, training and evaluation, bad input."""

import numpy as np
import pytest

from minquant import check, nn
from minquant.nn import functional, initialisers

rng0 = np.random.default_rng(0)

LAYERS = {
    "linear": (lambda r: nn.Linear(5, 4, r), (3, 5)),
    "linear without bias": (lambda r: nn.Linear(5, 4, r, bias=False), (3, 5)),
    "convolution": (lambda r: nn.Conv2d(3, 4, 3, r), (2, 6, 7, 3)),
    "padded": (lambda r: nn.Conv2d(3, 4, 3, r, padding=1), (2, 5, 5, 3)),
    "strided": (lambda r: nn.Conv2d(3, 4, 3, r, stride=2, padding=1), (2, 7, 6, 3)),
    "strided past the end": (lambda r: nn.Conv2d(2, 3, 3, r, stride=3), (2, 8, 7, 2)),
    "pointwise": (lambda r: nn.Conv2d(3, 4, 1, r), (2, 4, 4, 3)),
    "pointwise strided": (lambda r: nn.Conv2d(3, 4, 1, r, stride=2), (2, 5, 5, 3)),
    "grouped": (lambda r: nn.Conv2d(4, 6, 3, r, padding=1, groups=2), (2, 5, 5, 4)),
    "depthwise": (lambda r: nn.Conv2d(4, 4, 3, r, padding=1, groups=4), (2, 5, 5, 4)),
    "depthwise strided": (lambda r: nn.Conv2d(4, 4, 3, r, stride=2, padding=1, groups=4), (2, 7, 6, 4)),
    "depthwise multiplier": (lambda r: nn.Conv2d(3, 6, 3, r, padding=1, groups=3), (2, 5, 5, 3)),
    "batch norm of images": (lambda r: nn.BatchNorm(3), (4, 3, 5, 3)),
    "batch norm of vectors": (lambda r: nn.BatchNorm(6), (8, 6)),
    "relu": (lambda r: nn.ReLU(), (4, 3, 3, 2)),
    "relu6": (lambda r: nn.ReLU(cap=0.7), (4, 3, 3, 2)),
    "max pooling": (lambda r: nn.MaxPool(2), (2, 6, 4, 3)),
    "max pooling with overlap": (lambda r: nn.MaxPool(3, 2), (2, 7, 8, 3)),
    "average pooling": (lambda r: nn.AvgPool(2), (2, 6, 4, 3)),
    "average pooling with overlap": (lambda r: nn.AvgPool(3, 2), (2, 7, 8, 3)),
    "global average pooling": (lambda r: nn.GlobalAvgPool(), (2, 4, 5, 3)),
    "flatten": (lambda r: nn.Flatten(), (2, 3, 4, 2)),
    "dropout": (lambda r: nn.Dropout(0.4), (6, 10)),
    "pad shortcut": (lambda r: nn.PadShortcut(2, 5, 2), (2, 5, 4, 2)),
    "residual": (lambda r: nn.Residual(nn.Conv2d(3, 3, 3, r, padding=1)), (2, 4, 4, 3)),
    "residual with a shortcut": (
        lambda r: nn.Residual(nn.Conv2d(3, 4, 3, r, padding=1), nn.Conv2d(3, 4, 1, r)), (2, 4, 4, 3)),
    "concat": (lambda r: nn.Concat(narrow=nn.Conv2d(3, 2, 1, r), wide=nn.Conv2d(3, 4, 3, r, padding=1)), (2, 4, 4, 3)),
    "concat of vectors": (lambda r: nn.Concat(a=nn.Linear(5, 2, r), b=nn.Linear(5, 3, r)), (3, 5)),
    "concat of the identity, a concat and a pooling": (
        lambda r: nn.Concat(itself=nn.Sequential(), inner=nn.Concat(a=nn.Conv2d(2, 3, 1, r), b=nn.BatchNorm(2)),
                            pooled=nn.Sequential(conv=nn.Conv2d(2, 2, 3, r, padding=2), pool=nn.MaxPool(3, 1))),
        (2, 5, 5, 2)),
    "sequential": (
        lambda r: nn.Sequential(a=nn.Conv2d(2, 3, 3, r, bias=False), b=nn.BatchNorm(3), c=nn.ReLU()), (2, 5, 5, 2)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_gradients_of_every_layer(name):
    make, shape = LAYERS[name]
    rng = np.random.default_rng(7)
    net = make(rng)
    if len(shape) == 2:
        net = nn.Sequential(before=nn.Linear(shape[-1], shape[-1], rng, bias=False), layer=net)
    assert max(c.error for c in check.gradients(net, rng.standard_normal(shape), rng)) < 1e-7


def test_gradients_of_batch_norm_in_evaluation_mode():
    layer = nn.BatchNorm(3)
    layer.state["mean"][...], layer.state["var"][...] = [0.3, -1, 2], [0.5, 2, 1]
    check.gradients(layer, rng0.standard_normal((4, 2, 2, 3)), np.random.default_rng(1), train=False)


def naive_convolution(x, w, stride, padding, groups):
    x = np.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    kh, kw, cg, o = w.shape
    n, oh, ow = len(x), (x.shape[1] - kh) // stride + 1, (x.shape[2] - kw) // stride + 1
    y = np.zeros((n, oh, ow, o))
    for b, i, j, k in np.ndindex(n, oh, ow, o):
        g = k // (o // groups)
        window = x[b, i * stride:i * stride + kh, j * stride:j * stride + kw, g * cg:(g + 1) * cg]
        y[b, i, j, k] = (window * w[..., k]).sum()
    return y


@pytest.mark.parametrize("stride,padding,groups", [(1, 0, 1), (1, 1, 1), (2, 1, 1), (3, 2, 1), (1, 1, 2), (2, 1, 4),
                                                   (1, 2, 4)])
def test_a_convolution_equals_seven_nested_loops(stride, padding, groups):
    rng = np.random.default_rng(3)
    x, w = rng.standard_normal((2, 7, 6, 4)), rng.standard_normal((3, 3, 4 // groups, 8))
    y, _ = functional.conv2d_forward(x, w, stride, padding, groups)
    np.testing.assert_allclose(y, naive_convolution(x, w, stride, padding, groups), rtol=1e-12, atol=1e-12)


def test_col2im_is_the_adjoint_of_im2col():
    rng = np.random.default_rng(4)
    x = rng.standard_normal((2, 6, 7, 3))
    cols = functional.im2col(x, (3, 2), 2)
    other = rng.standard_normal(cols.shape)
    assert (cols * other).sum() == pytest.approx((x * functional.col2im(other, x.shape, (3, 2), 2)).sum(), rel=1e-12)


def test_a_convolution_in_blocks_equals_one_in_a_piece(monkeypatch):
    rng = np.random.default_rng(5)
    x, w, dy = rng.standard_normal((9, 6, 6, 3)), rng.standard_normal((3, 3, 3, 4)), rng.standard_normal((9, 6, 6, 4))
    y, cache = functional.conv2d_forward(x, w, 1, 1)
    dx, dw = functional.conv2d_backward(dy, cache)
    monkeypatch.setattr(functional, "BLOCK_BYTES", 20000)
    assert len(functional.blocks(9, 6 * 6 * 27 * 8)) > 3
    np.testing.assert_allclose(functional.conv2d_forward(x, w, 1, 1)[0], y, rtol=1e-12)
    again = functional.conv2d_backward(dy, cache)
    np.testing.assert_allclose(again[0], dx, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(again[1], dw, rtol=1e-12, atol=1e-12)


def test_layers_follow_the_dtype_of_their_input():
    for name, (make, shape) in LAYERS.items():
        for dtype in (np.float32, np.float64):
            layer = make(np.random.default_rng(0)).astype(dtype)
            x = rng0.standard_normal(shape).astype(dtype)
            y, cache = layer.forward(x, train=True, rng=np.random.default_rng(0))
            dx, grads = layer.backward(np.ones_like(y), cache)
            assert {y.dtype, dx.dtype, *(g.dtype for g in grads.values())} == {np.dtype(dtype)}, name


def test_batch_norm_of_a_large_mean_keeps_the_variance():
    x = (1e4 + np.random.default_rng(6).standard_normal((64, 1))).astype(np.float32)
    y, _ = nn.BatchNorm(1).forward(x, train=True)
    assert y.std() == pytest.approx(1, abs=0.01)


def test_batch_norm_output_of_a_batch_is_standardised():
    x = np.random.default_rng(6).normal(3, 2, (16, 4, 4, 3))
    y, _ = nn.BatchNorm(3).astype(np.float64).forward(x, train=True)
    np.testing.assert_allclose(y.mean((0, 1, 2)), 0, atol=1e-12)
    np.testing.assert_allclose(y.var((0, 1, 2)), 1, atol=1e-4)


def test_running_statistics_approach_those_of_the_data_and_serve_evaluation():
    rng, layer = np.random.default_rng(8), nn.BatchNorm(2)
    for _ in range(200):
        layer.forward(rng.normal([1, -2], [2, 0.5], (64, 2)).astype(np.float32), train=True)
    np.testing.assert_allclose(layer.state["mean"], [1, -2], atol=0.2)
    np.testing.assert_allclose(layer.state["var"], [4, 0.25], rtol=0.2)
    y, _ = layer.forward(np.array([[1, -2]], np.float32))
    np.testing.assert_allclose(y, 0, atol=0.3)


def test_evaluation_leaves_the_running_statistics_alone():
    layer = nn.BatchNorm(2)
    layer.forward(rng0.standard_normal((8, 2)).astype(np.float32))
    np.testing.assert_array_equal(layer.state["mean"], 0)


def test_the_running_variance_is_the_unbiased_one():
    layer = nn.BatchNorm(1, momentum=1.0)
    layer.forward(np.array([[0.0], [2.0]], np.float32), train=True)
    assert layer.state["var"][0] == pytest.approx(2.0)


def test_max_pooling_takes_the_largest_and_gives_it_the_gradient():
    x = np.array([[1, 5], [5, 2]], np.float64).reshape(1, 2, 2, 1)
    y, cache = nn.MaxPool(2).forward(x)
    assert y.item() == 5
    dx, _ = nn.MaxPool(2).backward(np.full((1, 1, 1, 1), 3.0), cache)
    np.testing.assert_array_equal(dx.ravel(), [0, 3, 0, 0])


def test_dropout_keeps_the_mean_and_is_the_identity_in_evaluation():
    x = np.ones((200, 200), np.float32)
    y, _ = nn.Dropout(0.3).forward(x, train=True, rng=np.random.default_rng(9))
    assert y.mean() == pytest.approx(1, abs=0.02) and (y == 0).mean() == pytest.approx(0.3, abs=0.01)
    np.testing.assert_array_equal(nn.Dropout(0.3).forward(x)[0], x)


def test_cross_entropy_of_equal_logits_is_the_logarithm_of_the_classes():
    loss, _ = nn.softmax_cross_entropy(np.zeros((3, 10)), np.array([0, 4, 9]))
    assert loss == pytest.approx(np.log(10))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_gradient_of_the_cross_entropy(smoothing):
    rng = np.random.default_rng(10)
    logits, labels, v = rng.standard_normal((5, 4)), rng.integers(0, 4, 5), rng.standard_normal((5, 4))
    _, dlogits = nn.softmax_cross_entropy(logits, labels, smoothing)
    numeric = check.directional(lambda t: nn.softmax_cross_entropy(logits + t * v, labels, smoothing)[0], 1e-3)
    assert (dlogits * v).sum() == pytest.approx(numeric, rel=1e-8)


def test_label_smoothing_makes_a_certain_answer_cost():
    logits = np.array([[50.0, 0, 0]])
    plain, smooth = (nn.softmax_cross_entropy(logits, np.array([0]), s)[0] for s in (0.0, 0.1))
    assert plain == pytest.approx(0, abs=1e-9) and smooth == pytest.approx(0.1 * 2 / 3 * 50)


def test_huge_logits_do_not_overflow():
    loss, dlogits = nn.softmax_cross_entropy(np.array([[1e4, -1e4]], np.float32), np.array([1]))
    assert loss == pytest.approx(2e4) and np.isfinite(dlogits).all()


def test_gradient_of_the_mean_squared_error():
    rng = np.random.default_rng(11)
    y, target, v = rng.standard_normal((3, 3, 4))
    _, dy = nn.mean_squared_error(y, target)
    numeric = check.directional(lambda t: nn.mean_squared_error(y + t * v, target)[0], 1e-3)
    assert (dy * v).sum() == pytest.approx(numeric, rel=1e-9)


@pytest.mark.parametrize("name,variance", [("he_normal", 2 / 72), ("he_uniform", 2 / 72),
                                           ("xavier_normal", 2 / (72 + 288)), ("xavier_uniform", 2 / (72 + 288))])
def test_initial_weights_have_the_variance_of_their_paper(name, variance):
    w = getattr(initialisers, name)((3, 3, 8, 32), np.random.default_rng(12))
    assert w.dtype == np.float32 and w.var() == pytest.approx(variance, rel=0.1) and abs(w.mean()) < 0.02


def test_skipping_the_input_gradient_changes_no_other_gradient():
    rng = np.random.default_rng(13)
    net = nn.Sequential(conv=nn.Conv2d(2, 3, 3, rng), relu=nn.ReLU(), flatten=nn.Flatten(), fc=nn.Linear(27, 2, rng))
    x = rng.standard_normal((2, 5, 5, 2)).astype(np.float32)
    y, cache = net.forward(x)
    _, before = net.backward(np.ones_like(y), cache)
    nn.skip_input_gradient(net)
    dx, after = net.backward(np.ones_like(y), cache)
    assert dx is None and before.keys() == after.keys()
    for name in before:
        np.testing.assert_array_equal(before[name], after[name])


@pytest.mark.parametrize("make", [
    lambda rng: nn.Concat(a=nn.Conv2d(2, 3, 1, rng), b=nn.Sequential(bn=nn.BatchNorm(2), conv=nn.Conv2d(2, 1, 1, rng)),
                          c=nn.Sequential()),
    lambda rng: nn.Residual(nn.Sequential(conv=nn.Conv2d(2, 2, 1, rng), relu=nn.ReLU()))])
def test_branches_at_the_input_have_no_input_gradient_once_one_of_them_skips_it(make):
    rng = np.random.default_rng(13)
    net = nn.Sequential(drop=nn.Dropout(0.5), branches=make(rng))
    y, cache = net.forward(rng.standard_normal((2, 3, 3, 2)))
    dx, before = net.backward(np.ones_like(y), cache)
    nn.skip_input_gradient(net)
    nothing, after = net.backward(np.ones_like(y), cache)
    assert dx is not None and nothing is None and before.keys() == after.keys() == net.named_params().keys()
    for name in before:
        np.testing.assert_array_equal(before[name], after[name])


def test_a_concat_puts_channels_side_by_side_and_hands_each_branch_its_gradient():
    net = nn.Concat(itself=nn.Sequential(), cut=nn.ReLU(cap=2), inner=nn.Concat(again=nn.Sequential()))
    y, cache = net.forward(np.array([[-1.0, 3.0]]))
    np.testing.assert_array_equal(y, [[-1, 3, 0, 2, -1, 3]])
    dx, grads = net.backward(np.array([[1.0, 20.0, 300.0, 300.0, 4000.0, 50000.0]]), cache)
    assert dx.tolist() == [[4001, 50020]] and grads == {}


def test_a_concat_that_hands_gradients_to_the_wrong_branch_is_found_out():
    class Swapped(nn.Concat):
        def backward(self, dy, cache):
            return super().backward(np.concatenate([dy[..., 3:], dy[..., :3]], axis=-1), cache)

    rng = np.random.default_rng(7)
    branches = dict(a=nn.Conv2d(2, 3, 1, rng), b=nn.Conv2d(2, 3, 1, rng))
    x = rng.standard_normal((2, 3, 3, 2))
    check.gradients(nn.Concat(**branches), x, rng)
    with pytest.raises(check.GradientError, match="dx: .*\n  da.weight"):
        check.gradients(Swapped(**branches), x, rng)


def test_a_learned_layer_before_a_skipped_gradient_is_an_error():
    rng = np.random.default_rng(13)
    net = nn.Sequential(first=nn.Linear(3, 3, rng), second=nn.Linear(3, 2, rng))
    net.children["second"].input_grad = False
    y, cache = net.forward(np.ones((2, 3), np.float32))
    with pytest.raises(ValueError, match="'first' has parameters"):
        net.backward(y, cache)


def test_taps_see_every_leaf_and_leave_no_trace():
    rng, seen = np.random.default_rng(14), []
    net = nn.Sequential(a=nn.Conv2d(2, 2, 1, rng), b=nn.Residual(nn.Sequential(c=nn.ReLU())))
    with pytest.raises(RuntimeError):
        with nn.tapped(net, before=lambda name, layer, x: seen.append(name)):
            net.forward(np.ones((1, 2, 2, 2), np.float32))
            raise RuntimeError
    assert seen == ["a", "b.body.c"]
    assert type(net.children["a"]) is nn.Conv2d and type(net.children["b"].children["body"].children["c"]) is nn.ReLU


def test_loading_arrays_of_another_network_names_what_differs():
    rng = np.random.default_rng(15)
    net, other = nn.Linear(3, 2, rng), nn.Linear(3, 2, rng, bias=False)
    with pytest.raises(ValueError, match="missing \\['bias'\\]"):
        net.load(other.params, {})
    with pytest.raises(ValueError, match="'weight' has shape"):
        net.load({"weight": np.zeros((2, 2)), "bias": np.zeros(2)}, {})


@pytest.mark.parametrize("call,message", [
    (lambda r: nn.Linear(3, 2, r).forward(np.ones((2, 3), int)), "Linear takes floats, got int64"),
    (lambda r: nn.Conv2d(3, 2, 3, r).forward(np.ones((1, 5, 5, 3), np.uint8)), "Conv2d takes floats, got uint8"),
    (lambda r: nn.BatchNorm(3).forward(np.ones((2, 3), np.uint8)), "BatchNorm takes floats, got uint8"),
    (lambda r: nn.MaxPool(0), "size=0"),
    (lambda r: nn.MaxPool(17), "sizes are 1..16"),
    (lambda r: nn.GlobalAvgPool().forward(np.ones((2, 3))), "takes images"),
    (lambda r: nn.softmax_cross_entropy(np.zeros(3), np.array([0])), r"expected \(N, classes\)"),
    (lambda r: nn.Linear(3, 2, r).forward(np.ones((2, 4), np.float32)), r"\(N, 3\), got \(2, 4\)"),
    (lambda r: nn.Conv2d(3, 2, 3, r).forward(np.ones((2, 3, 8, 8), np.float32)), "NHWC"),
    (lambda r: nn.Conv2d(3, 2, 5, r).forward(np.ones((2, 3, 3, 3), np.float32)), "does not fit"),
    (lambda r: nn.Conv2d(3, 2, 3, r, groups=2), "groups=2 does not divide"),
    (lambda r: nn.Conv2d(3, 2, 3, r, stride=0), "stride=0"),
    (lambda r: nn.BatchNorm(3).forward(np.ones((4, 2), np.float32)), "channels are the last axis"),
    (lambda r: nn.BatchNorm(3).forward(np.ones((1, 3), np.float32), train=True), "at least 2 values"),
    (lambda r: nn.ReLU(cap=0), "cap=0"),
    (lambda r: nn.MaxPool(3).forward(np.ones((1, 2, 2, 1), np.float32)), "does not fit"),
    (lambda r: nn.Dropout(1.0), "rate=1.0"),
    (lambda r: nn.Dropout(0.5).forward(np.ones((2, 2)), train=True), "pass rng"),
    (lambda r: nn.PadShortcut(4, 2, 2), "1x1 convolution"),
    (lambda r: nn.Residual(nn.Conv2d(2, 3, 1, r)).forward(np.ones((1, 2, 2, 2), np.float32)), "must be equal"),
    (lambda r: nn.Concat(), "Concat has no branch"),
    (lambda r: nn.Concat(a=nn.MaxPool(2), itself=nn.Sequential()).forward(np.ones((1, 2, 2, 2), np.float32)),
     r"'a' \(1, 1, 1, 2\), 'itself' \(1, 2, 2, 2\); all axes but the last must be equal"),
    (lambda r: nn.softmax_cross_entropy(np.zeros((2, 3)), np.array([0, 3])), "classes 0..2"),
    (lambda r: nn.softmax_cross_entropy(np.zeros((2, 3)), np.array([0.0, 1.0])), "integers"),
    (lambda r: nn.softmax_cross_entropy(np.zeros((0, 3)), np.zeros(0, int)), "empty"),
    (lambda r: nn.softmax_cross_entropy(np.zeros((1, 3)), np.array([1]), smoothing=1.0), "smoothing"),
    (lambda r: nn.mean_squared_error(np.zeros((1, 3)), np.zeros(3)), "must be equal"),
])
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call(np.random.default_rng(0))
