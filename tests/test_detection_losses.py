"""The losses of the detector: values by hand, gradients against differences, wrong backwards rejected."""

import numpy as np
import pytest

from minquant import check
from minquant.detection import losses
from minquant.nn.base import Layer

IMAGE = (32, 32, 3)
OBJECTS = np.array([[[0, 3, 2, 17, 15, 0], [1, 15, 16, 30, 31, 0]], [[1, 4, 8, 20, 22, 0], [-1, 0, 0, 0, 0, 0]]],
                   np.float32)


class Loss(Layer):
    """f(x) -> (value, dx) as a layer, so that the gradient checker takes it; `tamper` may spoil dx."""

    def __init__(self, f, tamper=lambda dx: dx):
        super().__init__()
        self.f, self.tamper = f, tamper

    def forward(self, x, train=False, rng=None):
        value, dx = self.f(x)
        return np.array([value]), dx

    def backward(self, dy, cache):
        return dy * self.tamper(cache), {}


def heat(rng):
    values = rng.uniform(0, 0.9, (3, 4, 2))
    values[rng.random(values.shape) < 0.3] = 1
    return values


def box_pair(rng):
    """(offset, log size) of predicted and true boxes that overlap, (5, 4) each."""
    return [np.concatenate([rng.uniform(-0.4, 0.4, (5, 2)), rng.uniform(0.2, 1.2, (5, 2))], 1) for _ in range(2)]


def iou_of(target):
    def f(x):
        value, doffset, dlog_size = losses.iou_loss(x[:, :2], x[:, 2:], target[:, :2], target[:, 2:])
        return value, np.concatenate([doffset, dlog_size], 1)
    return f


def cases(rng):
    predicted, target = box_pair(rng)
    truth, maps = heat(rng), rng.normal(0, 1, (2, 4, 4, 6))
    return {"focal": (lambda z: losses.focal(z, truth), rng.normal(0, 2, truth.shape)),
            "l1": (lambda y: losses.l1(y, target), predicted),
            "iou": (iou_of(target), predicted),
            "whole": (lambda m: losses.detection_loss(m, OBJECTS, IMAGE), maps)}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", ["focal", "l1", "iou", "whole"])
def test_gradients_are_those_of_the_loss(name, seed):
    rng = np.random.default_rng(seed)
    f, x = cases(rng)[name]
    assert check.gradients(Loss(f), x, rng)[0].error < 1e-6


@pytest.mark.parametrize("name", ["focal", "l1", "iou", "whole"])
@pytest.mark.parametrize("tamper", [lambda dx: 1.001 * dx, lambda dx: 0 * dx, lambda dx: -dx, lambda dx: dx[::-1]])
def test_wrong_gradients_are_rejected(name, tamper):
    rng = np.random.default_rng(0)
    f, x = cases(rng)[name]
    with pytest.raises(check.GradientError):
        check.gradients(Loss(f, tamper), x, rng)


def test_an_iou_gradient_without_the_union_is_rejected():
    rng = np.random.default_rng(0)
    predicted, target = box_pair(rng)
    with pytest.raises(check.GradientError):
        def forgetful(dx):
            s, t = np.exp(predicted[:, 2:]), np.exp(target[:, 2:])
            return dx - np.concatenate([np.zeros((5, 2)), 0.1 * s / (s + t)], 1)
        check.gradients(Loss(iou_of(target), forgetful), predicted, rng)


def test_the_focal_loss_by_hand():
    value, dz = losses.focal(np.zeros(2), np.array([1.0, 0.5]))  # p = 1/2
    assert value == pytest.approx(0.25 * np.log(2) + 0.5 ** 4 * 0.25 * np.log(2))
    assert dz == pytest.approx([0.25 * (-np.log(2) - 0.5), 0.5 ** 4 * 0.25 * (0.5 + np.log(2))])


def test_the_focal_loss_of_extreme_logits_is_finite():
    value, dz = losses.focal(np.array([-1000.0, 1000.0], np.float32), np.array([1.0, 0.0], np.float32))
    assert value == 2000 and np.isfinite(dz).all() and dz.dtype == np.float32


def test_the_iou_loss_by_hand():
    same = losses.iou_loss(*np.zeros((4, 1, 2)))
    assert same[0] == 0
    half = losses.iou_loss(np.array([[0.5, 0.0]]), *np.zeros((3, 1, 2)))  # two unit squares, half a side apart
    assert half[0] == pytest.approx(1 - 1 / 3)
    apart = losses.iou_loss(np.array([[5.0, 0.0]]), *np.zeros((3, 1, 2)))
    assert apart[0] == 1 and not apart[1].any() and not apart[2].any()


def test_only_cells_with_a_centre_get_a_box_gradient():
    maps = np.random.default_rng(0).normal(0, 1, (2, 4, 4, 6)).astype(np.float32)
    loss, dmaps = losses.detection_loss(maps, OBJECTS, IMAGE)
    places = np.argwhere(dmaps[..., 2:].any(-1)).tolist()
    assert places == [[0, 1, 1], [0, 2, 2], [1, 1, 1]] and dmaps.dtype == np.float32 and loss > 0


def test_a_batch_without_objects_has_a_finite_loss_and_no_box_gradient():
    maps = np.zeros((2, 4, 4, 6), np.float32)
    loss, dmaps = losses.detection_loss(maps, np.full((2, 0, 6), -1, np.float32), IMAGE)
    assert loss == pytest.approx(2 * 4 * 4 * 2 * 0.25 * np.log(2), rel=1e-6)
    assert (dmaps[..., :2] > 0).all() and not dmaps[..., 2:].any()
