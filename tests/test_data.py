"""Data sets by name: the embedded digits, Fashion-MNIST, splits, search, messages."""

import os
import subprocess
import sys

import numpy as np
import pytest

from minquant.data import DataError, DataNotFoundError, load, names, search_path
from minquant.data.digits import read_digits
from minquant.data.idx import idx_bytes
from minquant.data.sources import IDX_FILES
from test_data_files import synthetic_images, write_cifar_set, write_idx_set


@pytest.fixture(autouse=True)
def nothing_set_up(request, tmp_path_factory, monkeypatch):
    """An empty home, cache and working folder, no system data sets: the search finds what the test wrote."""
    if "real_search" in request.fixturenames:
        return
    empty = tmp_path_factory.mktemp("empty")
    monkeypatch.delenv("MINQUANT_DATA", raising=False)
    monkeypatch.setenv("HOME", str(empty))
    monkeypatch.setenv("XDG_CACHE_HOME", str(empty / "cache"))
    monkeypatch.chdir(empty)
    monkeypatch.setattr("minquant.data.locate.SYSTEM", empty / "system")


@pytest.fixture
def real_search():
    """Search this machine as a user's run would."""


def fashion_or_synthetic(tmp_path):
    """(data root, real): None and True where Fashion-MNIST is installed, else a small synthetic set.

    With MINQUANT_REQUIRE_DATA=1 a missing Fashion-MNIST is an error.
    """
    try:
        load("fashion-mnist", limit=1, validation=0)
        return None, True
    except DataNotFoundError:
        if os.environ.get("MINQUANT_REQUIRE_DATA") == "1":
            raise
    write_idx_set(tmp_path / "fashion-mnist")
    return tmp_path, False


def test_fashion_mnist_is_the_published_set(real_search, tmp_path):
    root, real = fashion_or_synthetic(tmp_path)
    data = load("fashion-mnist", root, validation=0, verify=real)
    train, test, per_class = (60000, 10000, (6000, 1000)) if real else (40, 20, (4, 2))
    assert data.train.images.shape == (train, 28, 28, 1) and data.test.images.shape == (test, 28, 28, 1)
    for split, count in zip((data.train, data.test), per_class):
        assert np.array_equal(np.bincount(split.labels), np.full(10, count))
    if real:
        assert abs(data.mean[0] - 0.2860) < 5e-5 and abs(data.std[0] - 0.3530) < 5e-5
        assert data.classes[data.train.labels[0]] == "Ankle boot"
        assert data.classes[data.test.labels[1]] == "Pullover"
    else:
        with pytest.raises(DataError, match="checksum of the content .*; expected c59f468a2f67"):
            load("fashion-mnist", root, verify=True)


def test_fashion_mnist_is_not_taken_for_mnist(real_search, tmp_path):
    root, real = fashion_or_synthetic(tmp_path)
    if real:
        folder = load("fashion-mnist", limit=1, validation=0).source
        with pytest.raises(DataError, match="holds fashion-mnist, not mnist; load 'fashion-mnist'"):
            load("mnist", folder)
    else:
        with pytest.raises(DataNotFoundError):
            load("mnist", root)


def test_required_but_missing_data_is_a_failure_not_a_fallback(tmp_path, monkeypatch):
    monkeypatch.setenv("MINQUANT_REQUIRE_DATA", "1")
    with pytest.raises(DataNotFoundError):
        fashion_or_synthetic(tmp_path)
    monkeypatch.delenv("MINQUANT_REQUIRE_DATA")
    assert fashion_or_synthetic(tmp_path) == (tmp_path, False)


def test_digits_need_no_files_and_hold_1797_images():
    data = load("digits")
    assert data.source == "embedded" and data.image_shape == (8, 8, 1) and data.classes == tuple("0123456789")
    labels = np.concatenate([data.train.labels, data.validation.labels, data.test.labels])
    assert np.array_equal(np.bincount(labels), [178, 182, 177, 183, 181, 182, 181, 179, 174, 180])
    assert len(data.test) == 360


def test_digits_levels_0_to_16_span_0_to_255_evenly():
    images = np.concatenate(read_digits()[::2])
    assert np.array_equal(np.unique(images), np.floor(np.arange(17) * 255 / 16 + 0.5))


def test_digits_are_told_apart_by_nearest_training_image():
    data = load("digits", validation=0)
    train, test = (data.normalise(s.images, np.float64).reshape(len(s), -1) for s in (data.train, data.test))
    distance = (train ** 2).sum(1) - 2 * test @ train.T
    assert (data.train.labels[distance.argmin(1)] == data.test.labels).mean() > 0.95


def test_altered_or_broken_embedded_file_is_an_error(tmp_path):
    images, labels = np.zeros((1797, 8, 8), np.uint8), np.zeros(1797, np.uint8)
    np.savez(tmp_path / "altered.npz", images=images, labels=labels)
    (tmp_path / "broken.npz").write_bytes(b"PK\x03\x04 no archive")
    np.savez(tmp_path / "other.npz", x=images)
    for name, message in (("altered", "SHA-256"), ("broken", "cannot be read"), ("other", "cannot be read")):
        with pytest.raises(DataError, match=f"{name}.npz.*{message}.*reinstall"):
            read_digits(tmp_path / f"{name}.npz")


def test_same_arguments_give_the_same_set_and_another_seed_another_validation_part():
    first, again, other = load("digits", seed=3), load("digits", seed=3), load("digits", seed=4)
    for part in ("train", "validation", "test"):
        assert np.array_equal(getattr(first, part).images, getattr(again, part).images)
    assert not np.array_equal(first.validation.images, other.validation.images)
    assert np.array_equal(first.test.images, other.test.images)


def test_train_and_validation_partition_the_training_images():
    def rows(*splits):
        return sorted(image.tobytes() + bytes([label]) for split in splits
                      for image, label in zip(split.images, split.labels))

    whole, data = load("digits", validation=0), load("digits", validation=0.2)
    assert len(whole.validation) == 0 and len(data.validation) == round(0.2 * 1437)
    assert rows(data.train, data.validation) == rows(whole.train)


def test_limit_takes_the_first_images_of_both_files():
    whole, data = load("digits", validation=0), load("digits", validation=0, limit=50)
    assert np.array_equal(data.train.images, whole.train.images[:50])
    assert np.array_equal(data.test.labels, whole.test.labels[:50])
    assert len(load("digits", limit=50).validation) == 5


@pytest.mark.parametrize("arguments, message", [
    (dict(limit=0), "limit=0 images is not positive"),
    (dict(validation=1.0), r"validation=1.0 is not in \[0, 1\)"),
    (dict(validation=-0.1), "validation=-0.1"), (dict(validation=float("nan")), "validation=nan"),
    (dict(validation=0.6, limit=1), "validation=0.6 holds out all 1 training images"),
    (dict(root="no/such/folder"), "data root 'no/such/folder' is not a folder")])
def test_argument_out_of_range_is_an_error_with_its_value(arguments, message, tmp_path):
    name = "fashion-mnist" if "root" in arguments else "digits"
    with pytest.raises(DataError, match=message):
        load(name, **arguments)


@pytest.mark.parametrize("alias, name", [
    ("fashion", "fashion-mnist"), ("FashionMNIST", "fashion-mnist"), ("MNIST", "mnist"),
    ("cifar-10", "cifar10"), ("digits8x8", "digits")])
def test_alias_finds_the_same_folders_as_the_name(alias, name, tmp_path):
    assert search_path(alias, tmp_path) == search_path(name, tmp_path)


@pytest.mark.parametrize("wrong, near", [("fashon-mnist", "'fashion-mnist'"), ("cifar100", "'cifar10'"),
                                         ("digit", "'digits'"), ("Mnist", "'mnist'")])
def test_unknown_name_lists_the_nearest_and_all_valid_ones(wrong, near):
    with pytest.raises(DataError, match=f"unknown data set '{wrong}'; did you mean .*{near}") as caught:
        load(wrong)
    assert all(name in str(caught.value) for name in names())


def test_miss_names_every_folder_looked_at_and_the_ways_to_get_the_files(tmp_path, monkeypatch):
    monkeypatch.setenv("MINQUANT_DATA", str(tmp_path / "elsewhere"))
    for name, way in (("fashion-mnist", "apt-get install dataset-fashion-mnist"), ("mnist", "https://"),
                      ("cifar10", "cifar-10-python.tar.gz")):
        with pytest.raises(FileNotFoundError) as caught:
            load(name, tmp_path)
        lines = [line.strip() for line in str(caught.value).splitlines()]
        assert all(str(folder) in lines for folder in search_path(name, tmp_path))
        assert way in str(caught.value) and "--data-root" in str(caught.value) and "digits" in lines[-1]


def test_miss_says_which_files_of_an_incomplete_set_are_missing(tmp_path):
    write_idx_set(tmp_path / "fashion-mnist")
    (tmp_path / "fashion-mnist" / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(DataNotFoundError, match="fashion-mnist   .incomplete, missing: t10k-labels"):
        load("fashion-mnist", tmp_path)


def test_folders_are_searched_in_the_documented_order(tmp_path, monkeypatch):
    monkeypatch.setenv("MINQUANT_DATA", str(tmp_path / "env"))
    bases = [tmp_path / "root", tmp_path / "env", tmp_path / "cwd" / "data", tmp_path / "cache" / "minquant",
             tmp_path / "home" / ".keras" / "datasets", tmp_path / "system"]
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr("minquant.data.locate.SYSTEM", tmp_path / "system")
    bases[0].mkdir()
    for base in reversed(bases):
        write_idx_set(base / "fashion-mnist")
        assert load("fashion-mnist", bases[0]).source == str(base / "fashion-mnist")


@pytest.mark.parametrize("folder", ["fashion-mnist", "FashionMNIST/raw", "FashionMNIST", "."])
@pytest.mark.parametrize("zipped", [True, False])
def test_idx_set_is_found_in_each_usual_layout(tmp_path, folder, zipped):
    arrays = write_idx_set(tmp_path / folder, zipped=zipped)
    data = load("fashion-mnist", tmp_path, validation=0)
    assert np.array_equal(data.train.images[..., 0], arrays[0])
    assert np.array_equal(data.test.labels, arrays[3])
    assert data.train.labels.dtype == np.int64 and data.train.images.dtype == np.uint8


def test_files_directly_in_a_shared_folder_are_not_taken_for_any_set(tmp_path, monkeypatch):
    write_idx_set(tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataNotFoundError):
        load("fashion-mnist")
    assert load("fashion-mnist", "data").source == str(tmp_path / "data")


def test_keras_archive_of_mnist_is_read_and_a_pickled_one_refused(tmp_path):
    x, y = synthetic_images(30, (28, 28)), (np.arange(30) % 10).astype(np.uint8)
    np.savez(tmp_path / "mnist.npz", x_train=x, y_train=y, x_test=x[:10], y_test=y[:10])
    assert np.array_equal(load("mnist", tmp_path, validation=0).train.images[..., 0], x)
    bad = {"objects": dict(x_train=np.array([{}, {}], object)), "float": dict(x_train=x / 255.0),
           "shape": dict(x_train=x[:, :27])}
    for arrays in bad.values():
        np.savez(tmp_path / "mnist.npz", **{**dict(x_train=x, y_train=y, x_test=x, y_test=y), **arrays})
        with pytest.raises(DataError, match="mnist.npz: "):
            load("mnist", tmp_path)
    (tmp_path / "mnist.npz").write_bytes((tmp_path / "mnist.npz").read_bytes()[:1000])
    with pytest.raises(DataError, match="mnist.npz: cannot be read"):
        load("mnist", tmp_path)


@pytest.mark.parametrize("file, array, message", [
    (1, np.zeros(41, np.uint8), "41 labels for 40 images"),
    (1, np.zeros(39, np.uint8), "39 labels for 40 images"),
    (3, np.full(20, 10, np.uint8), "label 10 of image 0 is not in 0..9"),
    (0, np.zeros((0, 28, 28), np.uint8), "the data set is empty"),
    (2, np.zeros((20, 32, 32), np.uint8), r"shape \(32, 32\); expected \(28, 28\)")])
def test_set_whose_files_disagree_names_the_file(tmp_path, file, array, message):
    write_idx_set(tmp_path, zipped=False)
    (tmp_path / IDX_FILES[file]).write_bytes(idx_bytes(array))
    with pytest.raises(DataError, match=message) as caught:
        load("fashion-mnist", tmp_path)
    assert str(tmp_path / IDX_FILES[file // 2 * 2]) in str(caught.value)


def test_altered_file_fails_verification_and_names_both_checksums(tmp_path):
    write_idx_set(tmp_path / "mnist")
    with pytest.raises(DataError, match="train-images.*checksum of the content [0-9a-f]{64}; expected ba89"):
        load("mnist", tmp_path, verify=True)
    write_cifar_set(tmp_path / "cifar-10-batches-py", "pickled")
    with pytest.raises(DataError, match="data_batch_1: checksum of the content [0-9a-f]{32}; expected c99c"):
        load("cifar10", tmp_path, verify=True)
    write_cifar_set(tmp_path / "cifar-10-batches-bin", "binary")
    with pytest.raises(DataError, match="no checksums are known for the binary version of cifar10"):
        load("cifar10", tmp_path, verify=True)


def command(*arguments):
    return subprocess.run([sys.executable, "-m", "minquant.data", *arguments], text=True, capture_output=True)


def test_command_prints_one_line_per_set_and_where_it_is(real_search, tmp_path):
    write_cifar_set(tmp_path / "cifar-10-batches-bin", "binary")
    result = command("--data-root", str(tmp_path), "--verify")
    assert result.returncode == 0, result.stderr
    lines = {line.split()[0]: line for line in result.stdout.splitlines()[1:1 + len(names())]}
    assert list(lines) == list(names())
    assert "verified" in lines["digits"] and "embedded" in lines["digits"]
    assert "composed of digits: embedded" in lines["digit-scenes"] and "PASCAL VOC" in lines["voc"]
    assert "readable" in lines["cifar10"] and str(tmp_path / "cifar-10-batches-bin") in lines["cifar10"]


def test_command_reports_damaged_files_by_its_exit_code(real_search, tmp_path):
    write_idx_set(tmp_path / "fashion-mnist")
    result = command("--data-root", str(tmp_path), "--verify")
    assert result.returncode == 1 and "damaged" in result.stdout and "checksum" in result.stdout
    result = command("--data-root", str(tmp_path / "none"))
    assert result.returncode == 2 and "is not a folder" in result.stderr
