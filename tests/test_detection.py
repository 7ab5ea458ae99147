"""The detector: its map, decoding, suppression, that it learns, and that its integers are its float64 network's."""

import numpy as np
import pytest

from minquant import check, data, models, optim, training
from minquant.data.scenes import compose
from minquant.deploy import file, lower
from minquant.detection import boxes, losses
from minquant.nn import BatchNorm
from minquant.quantize import calibrate, quantize
from minquant.quantizers import METHODS
from minquant.tasks import DETECT, TASKS
from tests.deploy_models import DIGITS, act_bits_of

IMAGE = (96, 96, 3)
SCENES = compose(DIGITS.train.images, DIGITS.train.labels, 24, 0)


def normalise(images):
    return (images / 127.5 - 1).astype(np.float32)


def detector(seed=0, classes=10):
    return models.build("vgg_detector", IMAGE, classes, np.random.default_rng(seed))


def perfect_maps(objects, shape):
    """The maps whose decoding should give the objects back."""
    targets = boxes.encode(objects, shape, IMAGE, np.float64)
    maps = np.full((len(objects), *shape), -10.0)
    cells = targets.n, targets.i, targets.j
    maps[cells + (targets.classes,)] = 5
    maps[cells + (slice(-4, None),)] = np.concatenate([targets.offset, targets.log_size], 1)
    return maps


def test_the_detector_has_the_size_it_says():
    rows = models.count(detector(), IMAGE)
    assert sum(r.macs for r in rows) == 31_712_256 and rows[-1].output_shape == (12, 12, 14)
    assert sum(r.params for r in rows) == 9 * (3 * 16 + 16 * 32 + 32 * 32 + 32 * 64 + 64 * 96 + 96 * 96) + 96 * 14 + 14


def test_decoding_what_was_encoded_gives_the_objects_back():
    found = boxes.decode(perfect_maps(SCENES.labels, (12, 12, 14)), IMAGE)
    for rows, objects in zip(found, SCENES.labels):
        truth = objects[objects[:, 0] >= 0]
        assert len(rows) == len(truth)
        order = np.lexsort(rows[:, :3].T)
        np.testing.assert_allclose(rows[order, :5], truth[np.lexsort(truth[:, :3].T), :5], atol=1e-5)


def test_a_centre_is_one_in_the_heat_map_and_falls_off_faster_for_small_boxes():
    objects = np.array([[[2, 40, 40, 56, 56, 0], [3, 0, 0, 80, 80, 0]]], np.float32)
    targets = boxes.encode(objects, (12, 12, 9), IMAGE)
    small, large = targets.heat[0, :, :, 2], targets.heat[0, :, :, 3]
    assert small[6, 6] == large[5, 5] == 1 and (small < 1).sum() == (large < 1).sum() == 143
    assert small[6, 7] < large[5, 6] < 1 and large[5, 6] == large[6, 5] and not targets.heat[..., :2].any()


def test_of_two_centres_in_one_cell_the_smaller_box_is_kept_whatever_their_order():
    pair = np.array([[[0, 40, 40, 56, 56, 0], [1, 30, 30, 66, 66, 0]]], np.float32)
    for objects in (pair, pair[:, ::-1]):
        targets = boxes.encode(objects, (12, 12, 6), IMAGE)
        assert targets.classes.tolist() == [0] and targets.heat[0, 6, 6].tolist() == [1, 1]
        np.testing.assert_allclose(targets.log_size, np.log([[2, 2]]))


def test_a_centre_on_the_far_border_is_in_the_last_cell():
    objects = np.array([[[0, 95.9, 95.9, 96, 96, 0]]], np.float32)
    targets = boxes.encode(objects, (12, 12, 5), IMAGE)
    assert (targets.i, targets.j) == (11, 11)


def test_suppression_keeps_the_best_of_a_class_and_all_other_classes():
    corners = np.array([(0, 0, 10, 10), (1, 0, 11, 10), (1, 0, 11, 10), (20, 0, 30, 10), (5, 0, 15, 10)], float)
    assert boxes.suppress(np.array([0, 0, 1, 0, 0]), corners).tolist() == [0, 2, 3, 4]
    assert boxes.suppress(np.zeros(0), np.zeros((0, 4))).tolist() == []


def test_boxes_are_cut_to_the_image_and_extreme_outputs_stay_finite():
    maps = np.full((1, 12, 12, 5), 1e4, np.float32)
    rows = boxes.decode(maps, IMAGE)[0]
    assert np.isfinite(rows).all() and rows[:, 1:5].min() >= 0 and rows[:, 1:5].max() <= 96
    assert len(boxes.decode(np.full((1, 12, 12, 14), -1e4), IMAGE)[0]) == 0


def test_no_more_detections_than_allowed():
    maps = np.random.default_rng(0).normal(2, 1, (1, 12, 12, 14))
    maps[..., -2:] = -3
    rows = boxes.decode(maps, IMAGE)[0]
    assert len(rows) == boxes.MOST_DETECTIONS and (np.diff(rows[:, 5]) <= 0).all()


def test_the_detector_learns_a_few_scenes_by_heart():
    model, rng = detector(), np.random.default_rng(0)
    optimizer = optim.Adam(model.named_params())
    images, objects = normalise(SCENES.images[:8]), SCENES.labels[:8]
    taken = [training.step(model, optimizer, images, objects, 5e-3, rng, task=DETECT) for _ in range(60)]
    assert taken[-1][0] < 0.15 * taken[0][0] and taken[-1][1] == 8
    for _, layer in model.named_layers():
        if isinstance(layer, BatchNorm):
            layer.momentum = 1.0  # evaluation with the statistics of these very scenes
    maps = model.forward(images, train=True)[0]
    assert DETECT.score(maps, objects, IMAGE) > 0.9


def test_the_share_of_centres_with_the_right_class_is_counted_per_image():
    maps = perfect_maps(SCENES.labels, (12, 12, 14))
    assert DETECT.right(maps, SCENES.labels, IMAGE) == len(SCENES)
    maps[..., :10] = -maps[..., :10]
    assert DETECT.right(maps, SCENES.labels, IMAGE) == 0
    nothing = np.full((2, 1, 6), -1, np.float32)
    assert DETECT.right(maps[:2], nothing, IMAGE) == 2


def test_label_smoothing_is_refused():
    with pytest.raises(ValueError, match="smoothing=0.1 does not go with detection"):
        DETECT.loss(np.zeros((1, 12, 12, 14)), SCENES.labels[:1], IMAGE, 0.1)


def stored_detector(method, bits):
    """A calibrated, finished detector after two steps."""
    rng = np.random.default_rng(1)
    model = quantize(detector(), method, bits, act_bits_of(method, bits), rng=rng)
    images = normalise(SCENES.images[:6])
    calibrate(model, images, rng)
    optimizer = optim.Adam(model.named_params(), optim.parameter_groups(model))
    for i in range(2):
        training.step(model, optimizer, images, SCENES.labels[:6], 2e-3, rng, 1, i / 2, task=DETECT)
    model.method.finish(model)
    return model


@pytest.mark.parametrize("method,bits", [(name, 4 if 4 in m.weight_bits else m.weight_bits[-1])
                                         for name, m in METHODS.items()] + [("cpq", 3), ("dgms", 2), ("minmax", 8)])
def test_codes_maps_and_boxes_of_the_program_are_those_of_the_quantized_detector(method, bits, tmp_path):
    model = stored_detector(method, bits)
    program = lower(model, IMAGE, normalise)
    images = SCENES.images[6:9]
    agreement = check.bit_exact(model, program, images, normalise)
    assert agreement.quantizers == 7 and agreement.codes == 3 * (96 * 96 * 3 + 48 * 48 * 16 + 2 * 24 * 24 * 32
                                                                 + 12 * 12 * (64 + 2 * 96))
    file.save(program, tmp_path / "detector.mqz")
    maps = file.load(tmp_path / "detector.mqz").run(images)
    network = check.reference.exact_forward(check.reference.float64(model), normalise(images).astype(np.float64))[1]
    np.testing.assert_array_equal(maps, network)
    for found, expected in zip(boxes.decode(maps, IMAGE), boxes.decode(network, IMAGE), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_every_task_has_its_own_models():
    assert set(TASKS["detect"].models) == set(models.DETECTORS) and "lenet5" in TASKS["classify"].models
    assert not set(models.MODELS) & set(models.DETECTORS)


def test_a_detector_takes_other_image_sizes():
    maps = models.build("vgg_detector", (64, 80, 1), 3, np.random.default_rng(0)).forward(
        np.zeros((2, 64, 80, 1), np.float32))[0]
    assert maps.shape == (2, 8, 10, 7)
    objects = np.array([[[2, 8, 16, 24, 48, 0]]] * 2, np.float32)
    assert np.isfinite(losses.detection_loss(maps, objects, (64, 80, 1))[0])


def test_a_configuration_that_names_no_task_is_that_of_a_classifier():
    from minquant.config import Config
    assert Config.from_toml('method = "lsq"\nbits = 3\n', "here") == Config(method="lsq", bits=3, task="classify")


def test_the_embedded_scenes_are_the_default_of_the_task():
    from minquant.config import Config
    config = Config(task="detect")
    assert (config.data, config.model) == ("digit-scenes", "vgg_detector") and "digit-scenes" in data.names()
