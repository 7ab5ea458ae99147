"""Readers of standard files: IDX and CIFAR-10, sound and damaged; writers of small synthetic sets."""

import gzip
import pickle
import struct

import numpy as np
import pytest

from minquant.data import DataError, load
from minquant.data.cifar import read_binary, read_pickled
from minquant.data.idx import idx_bytes, read_idx
from minquant.data.sources import IDX_FILES


def synthetic_images(n, shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, size=(n, *shape), dtype=np.uint8)


def write_idx_set(folder, train=40, test=20, zipped=True):
    """A set in the layout of the MNIST family; returns its four arrays."""
    arrays = [synthetic_images(train, (28, 28), 1), (np.arange(train) % 10).astype(np.uint8),
              synthetic_images(test, (28, 28), 2), (np.arange(test) % 10).astype(np.uint8)]
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in zip(IDX_FILES, arrays):
        data = idx_bytes(array)
        (folder / (name + ".gz" * zipped)).write_bytes(gzip.compress(data) if zipped else data)
    return arrays


def python2_pickle(images, labels, fortran=False):
    """A CIFAR-10 batch, opcode by opcode as Python 2 wrote it (protocol 2); images (N, 32, 32, 3)."""
    planes = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
    data = planes.tobytes(order="F" if fortran else "C")
    shape = b"M" + struct.pack("<H", len(images)) + b"M" + struct.pack("<H", 3072) + b"\x86"
    array = (b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01" + shape
             + b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNN"
             + b"J\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb" + (b"\x88" if fortran else b"\x89")
             + b"T" + struct.pack("<I", len(data)) + data + b"tb")
    numbers = b"](" + b"".join(b"K" + bytes([label]) for label in labels) + b"e"
    return b"\x80\x02}(U\x0bbatch_labelU\x05batchU\x06labels" + numbers + b"U\x04data" + array + b"u."


def write_cifar_set(folder, kind, n=10):
    """Five training batches and a test batch of n images; returns all images and labels in that order."""
    images, labels = synthetic_images(6 * n, (32, 32, 3), 3), (np.arange(6 * n) % 10).astype(np.uint8)
    folder.mkdir(parents=True)
    for i, name in enumerate([f"data_batch_{k}" for k in range(1, 6)] + ["test_batch"]):
        x, y = images[i * n:i * n + n], labels[i * n:i * n + n]
        if kind == "pickled":
            (folder / name).write_bytes(python2_pickle(x, y))
        else:
            rows = np.concatenate([y[:, None], x.transpose(0, 3, 1, 2).reshape(n, -1)], axis=1)
            (folder / f"{name}.bin").write_bytes(rows.tobytes())
    return images, labels


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("name", ["values", "values.gz"])
def test_idx_is_read_raw_and_gzipped_whatever_its_name(tmp_path, zipped, name):
    values = synthetic_images(3, (5, 7))
    data = idx_bytes(values)
    (tmp_path / name).write_bytes(gzip.compress(data) if zipped else data)
    assert np.array_equal(read_idx(tmp_path / name, (5, 7)), values)


SOUND = idx_bytes(np.zeros((3, 4, 4), np.uint8))
DAMAGED_IDX = {
    "wrong magic": (b"<html>" + SOUND, "starts with bytes 3c68746d; expected 00000803"),
    "empty file": (b"", "starts with bytes none; expected 00000803"),
    "labels for images": (idx_bytes(np.zeros(5, np.uint8)), r"IDX of uint8 with 1 axes\); expected 00000803"),
    "floats": (b"\0\0\x0d\x03" + SOUND[4:], r"00000d03 \(IDX of float32 with 3 axes\)"),
    "header cut": (SOUND[:9], "the header ends after 9 bytes; expected 16"),
    "other image size": (idx_bytes(np.zeros((3, 4, 5), np.uint8)), r"shape \(4, 5\); expected \(4, 4\)"),
    "values cut": (SOUND[:-1], "holds only 47 values; its header announces 3 x 4 x 4 = 48"),
    "values surplus": (SOUND + b"\0", "holds more than 48 values; its header announces 3 x 4 x 4 = 48"),
    "huge header": (b"\0\0\x08\x03\xff\xff\xff\xff" + SOUND[8:], "holds only 48 values"),
    "gzip cut": (gzip.compress(SOUND)[:-12], "gzip stream ends too early"),
    "gzip trailer cut": (gzip.compress(SOUND)[:-3], "gzip stream ends too early"),
    "gzip checksum": (gzip.compress(SOUND)[:-8] + bytes(4) + gzip.compress(SOUND)[-4:], "stream is damaged"),
    "gzip body": (gzip.compress(SOUND)[:10] + b"\xff" * 40, "stream is damaged"),
}


@pytest.mark.parametrize("case", DAMAGED_IDX)
def test_damaged_idx_names_file_expected_and_found(tmp_path, case):
    data, message = DAMAGED_IDX[case]
    file = tmp_path / "images-idx3"
    file.write_bytes(data)
    with pytest.raises(DataError, match=message) as caught:
        read_idx(file, (4, 4))
    assert str(file) in str(caught.value)


def test_every_shortened_gzip_is_refused(tmp_path):
    whole, file = gzip.compress(SOUND), tmp_path / "x.gz"
    for length in range(len(whole)):
        file.write_bytes(whole[:length])
        with pytest.raises(DataError, match="x.gz"):
            read_idx(file, (4, 4))


def test_a_folder_in_place_of_a_file_is_an_error_that_names_it(tmp_path):
    for read in (read_idx, read_binary, read_pickled):
        with pytest.raises(DataError, match=f"{tmp_path}: cannot be read"):
            read(tmp_path)


@pytest.mark.parametrize("kind", ["binary", "pickled"])
def test_cifar_planes_become_pixels_in_the_order_of_the_files(tmp_path, kind):
    folder = tmp_path / ("cifar-10-batches-bin" if kind == "binary" else "cifar-10-batches-py")
    images, labels = write_cifar_set(folder, kind)
    data = load("cifar10", tmp_path, validation=0)
    assert np.array_equal(data.train.images, images[:50]) and np.array_equal(data.test.images, images[50:])
    assert np.array_equal(data.train.labels, labels[:50]) and np.array_equal(data.test.labels, labels[50:])
    assert data.source == str(folder) and data.image_shape == (32, 32, 3)


def test_cifar_array_stored_in_column_order_is_read_alike(tmp_path):
    images, labels = synthetic_images(4, (32, 32, 3)), np.arange(4)
    (tmp_path / "batch").write_bytes(python2_pickle(images, labels, fortran=True))
    assert np.array_equal(read_pickled(tmp_path / "batch")[0], images)


class Hostile:
    def __init__(self, call, *arguments):
        self.call, self.arguments = call, arguments

    def __reduce__(self):
        return self.call, self.arguments


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_that_would_run_a_program_is_refused_and_nothing_runs(tmp_path, protocol):
    import os
    victim = tmp_path / "made by the pickle"
    for call in ((os.mkdir, str(victim)), (eval, f"__import__('os').mkdir({str(victim)!r})"), (np.zeros, 3)):
        file = tmp_path / "data_batch_1"
        file.write_bytes(pickle.dumps({b"data": Hostile(*call), b"labels": [1]}, protocol))
        with pytest.raises(DataError, match="the pickle asks for .*[.].*Refused") as caught:
            read_pickled(file)
        assert str(file) in str(caught.value) and not victim.exists()


GOOD = python2_pickle(synthetic_images(4, (32, 32, 3)), np.arange(4))
FOREIGN = {
    "dotted name": (GOOD.replace(b"cnumpy\ndtype", b"cnumpy\ndtype.type"), "asks for numpy.dtype.type"),
    "not an array rebuilt": (GOOD.replace(b"cnumpy\nndarray", b"cnumpy\ndtype"), "other than a numpy array"),
    "outside object": (b"\x80\x02U\x01xQ.", "outside object"),
    "object array": (GOOD.replace(b"U\x02u1", b"U\x02O8"), "dtype b'O8'"),
    "cut": (GOOD[:5000], "not a readable pickle after 5000 bytes"),
    "empty": (b"", "not a readable pickle after 0 bytes"),
    "text": (b"<html>not found</html>", "not a readable pickle"),
    "list": (pickle.dumps([1, 2], 2), "holds list; expected a dict"),
    "no labels": (GOOD.replace(b"labels", b"Labels"), "expected a dict with b'data' and b'labels'"),
    "data not an array": (pickle.dumps({}, 2)[:2] + b"}(U\x04dataK\x01U\x06labels]u.", "not a numpy array"),
    "shape and bytes disagree": (GOOD.replace(b"M\x04\x00", b"M\x05\x00"),
                                 r"shape \(5, 3072\) and 12288 bytes"),
    "labels not integers": (GOOD.replace(b"K\x00K\x01K\x02K\x03e", b"NK\x01K\x02K\x03e"),
                            "labels' is not a list"),
}


@pytest.mark.parametrize("case", FOREIGN)
def test_foreign_or_damaged_pickle_names_file_and_reason(tmp_path, case):
    data, message = FOREIGN[case]
    file = tmp_path / "data_batch_1"
    file.write_bytes(data)
    with pytest.raises(DataError, match=message) as caught:
        read_pickled(file)
    assert str(file) in str(caught.value)


def test_reader_of_one_pickle_is_not_altered_by_another(tmp_path):
    (tmp_path / "hostile").write_bytes(b"\x80\x02cnumpy\nndarray\nN}U\x0c__setstate__K\x01s\x86b.")
    with pytest.raises(DataError):
        read_pickled(tmp_path / "hostile")
    (tmp_path / "good").write_bytes(GOOD)
    assert np.array_equal(read_pickled(tmp_path / "good")[1], np.arange(4))


@pytest.mark.parametrize("size", [0, 1, 3072, 3074])
def test_binary_batch_of_broken_records_names_the_record_size(tmp_path, size):
    (tmp_path / "b.bin").write_bytes(bytes(size))
    with pytest.raises(DataError, match=f"b.bin: {size} bytes; expected a positive multiple of 3073"):
        read_binary(tmp_path / "b.bin")


def test_foreign_giant_file_is_refused_before_it_is_read(tmp_path):
    with open(tmp_path / "giant", "wb") as stream:
        stream.truncate(1 << 33)
    for read in (read_binary, read_pickled):
        with pytest.raises(DataError, match="giant: 8589934592 bytes; a CIFAR-10 batch has at most"):
            read(tmp_path / "giant")


def test_training_batch_cut_at_a_record_is_noticed_by_its_length(tmp_path):
    write_cifar_set(tmp_path / "cifar-10-batches-bin", "binary")
    file = tmp_path / "cifar-10-batches-bin" / "data_batch_3.bin"
    file.write_bytes(file.read_bytes()[:-3073])
    with pytest.raises(DataError, match="data_batch_3.bin: 9 images; data_batch_1.bin has 10"):
        load("cifar10", tmp_path)


def test_cifar_label_out_of_range_is_an_error(tmp_path):
    write_cifar_set(tmp_path / "cifar-10-batches-bin", "binary")
    file = tmp_path / "cifar-10-batches-bin" / "test_batch.bin"
    file.write_bytes(b"\x0a" + file.read_bytes()[1:])
    with pytest.raises(DataError, match="test_batch.bin: label 10 of image 0 is not in 0..9"):
        load("cifar10", tmp_path)


def test_pickled_batch_with_more_labels_than_images_is_an_error(tmp_path):
    write_cifar_set(tmp_path / "cifar-10-batches-py", "pickled")
    file = tmp_path / "cifar-10-batches-py" / "data_batch_2"
    file.write_bytes(python2_pickle(synthetic_images(10, (32, 32, 3)), np.arange(11) % 10))
    with pytest.raises(DataError, match="data_batch_2: 11 labels for 10 images"):
        load("cifar10", tmp_path)
