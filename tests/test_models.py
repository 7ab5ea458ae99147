"""The networks: sizes as in their papers, and that they learn."""

import numpy as np
import pytest

from minquant import check, models, nn, optim, training


def build(name, shape=(32, 32, 3)):
    return models.build(name, shape, 10, np.random.default_rng(0))


@pytest.mark.parametrize("name,shape,params,macs", [
    ("mlp", (28, 28, 1), 784 * 256 + 256 * 128 + 128 * 10 + 10, 234_752),
    ("lenet5", (28, 28, 1), 25 * 6 + 150 * 16 + 400 * 120 + 120 * 84 + 84 * 10 + 10, 416_520),
    ("vgg_small", (32, 32, 3), 9 * (3 * 64 + 64 * 64 + 64 * 128 + 128 * 128 + 128 * 256 + 256 * 256)
     + 4096 * 512 + 512 * 10 + 10, 154_866_688),
    ("resnet20", (32, 32, 3), 9 * (3 * 16 + 6 * 16 * 16 + 16 * 32 + 5 * 32 * 32 + 32 * 64 + 5 * 64 * 64) + 64 * 10 + 10,
     40_551_040),
    ("resnet18", (224, 224, 3), 49 * 3 * 64 + 9 * (4 * 64 * 64 + 64 * 128 + 3 * 128 * 128 + 128 * 256 + 3 * 256 * 256
     + 256 * 512 + 3 * 512 * 512) + 512 * 10 + 10, 1_796_415_680),
    ("mobilenet_tiny", (32, 32, 3), 9 * (3 * 32 + 32 + 64 + 128 + 128 + 256 + 256 + 512) + 32 * 64 + 64 * 128
     + 128 * 128 + 128 * 256 + 256 * 256 + 256 * 512 + 512 * 512 + 512 * 10 + 10, 22_930_432),
    ("squeezenet_tiny", (32, 32, 3), 27 * 32 + 32 * 16 + 64 * 16 + 2 * 10 * 16 * 32 + 64 * 24 + 10 * 24 * 48 + 96 * 32
     + 10 * 32 * 64 + 128 * 10 + 10, 6_243_584),
])
def test_parameters_and_macs_of_the_weighted_layers(name, shape, params, macs):
    rows = models.count(build(name, shape), shape)
    assert (sum(r.params for r in rows), sum(r.macs for r in rows)) == (params, macs)


def test_resnet20_has_the_parameters_its_paper_reports():
    total = sum(array.size for array in build("resnet20").named_params().values())
    assert total == 269_722  # 0.27 M, table 6 of the paper


def test_resnet18_has_the_published_parameters_but_those_of_its_projections():
    model = models.build("resnet18", (224, 224, 3), 1000, np.random.default_rng(0))
    total = sum(array.size for array in model.named_params().values())
    projections = sum(inputs * 2 * inputs + 2 * 2 * inputs for inputs in (64, 128, 256))  # 1 x 1, with batch norm
    assert total + projections == 11_689_512


def test_resnet18_pools_large_images_to_the_sizes_of_its_paper():
    rows = models.count(build("resnet18", (224, 224, 3)), (224, 224, 3))
    assert [r.output_shape for r in rows[1:17:4]] == [(56, 56, 64), (28, 28, 128), (14, 14, 256), (7, 7, 512)]
    assert len(rows) == 18


def test_resnet20_has_twenty_weighted_layers_and_lenet_five():
    assert len(models.count(build("resnet20"), (32, 32, 3))) == 20
    assert len(models.count(build("lenet5", (28, 28, 1)), (28, 28, 1))) == 5


def test_mac_count_of_one_layer_by_hand():
    rows = {r.name: r for r in models.count(build("lenet5", (28, 28, 1)), (28, 28, 1))}
    assert rows["conv2"].macs == 10 * 10 * 5 * 5 * 6 * 16 and rows["conv2"].output_shape == (10, 10, 16)


@pytest.mark.parametrize("name", models.MODELS)
@pytest.mark.parametrize("shape", [(8, 8, 1), (28, 28, 1), (32, 32, 3)])
def test_every_model_takes_every_image_size(name, shape):
    y, cache = build(name, shape).forward(np.zeros((2, *shape), np.float32), train=True)
    assert y.shape == (2, 10) and y.dtype == np.float32


@pytest.mark.parametrize("name", ["mlp", "lenet5", "resnet20"])
def test_gradients_of_whole_networks(name):
    rng = np.random.default_rng(1)
    check.gradients(models.build(name, (8, 8, 1), 3, rng), rng.standard_normal((4, 8, 8, 1)), rng, step=1e-5)


# The blocks of resnet18 are those of resnet20; its 11 million parameters take too long here.
@pytest.mark.parametrize("name", sorted(set(models.MODELS) - {"resnet18"}))
def test_every_model_learns_sixteen_images_by_heart(name):
    rng = np.random.default_rng(2)
    model = models.build(name, (8, 8, 1), 4, rng)
    images, labels = rng.standard_normal((16, 8, 8, 1)).astype(np.float32), rng.integers(0, 4, 16)
    optimizer = optim.Adam(model.named_params())
    losses = [training.step(model, optimizer, images, labels, 2e-3, rng)[0] for _ in range(40)]
    assert losses[-1] < 0.1 * losses[0]


def test_an_unknown_model_lists_the_nearest():
    with pytest.raises(ValueError, match="no model 'resnet02'; did you mean resnet20"):
        models.build("resnet02", (8, 8, 1), 10, np.random.default_rng(0))


def test_equal_seeds_build_equal_networks():
    a, b = build("resnet20"), build("resnet20")
    assert all(np.array_equal(x, y) for x, y in zip(a.named_params().values(), b.named_params().values()))
    assert isinstance(a, nn.Sequential)
