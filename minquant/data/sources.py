"""The known data sets: their names, classes, file layouts, checksums, and how to get the files."""

import difflib
from dataclasses import dataclass

from .dataset import DataError


@dataclass(frozen=True)
class Layout:
    """One way the files of a set lie on a disk.

    kind           idx, npz, binary or pickled
    folder         relative to a folder of the search path
    files          the training files, then the test files
    shared_names   other sets use the same file names: taken only from a folder that the user named
    checksums      published ones; idx and npz: SHA-256 of the four arrays as IDX files (train images, train
                   labels, test images, test labels); pickled: MD5 of each file
    """

    kind: str
    folder: str
    files: tuple
    shared_names: bool = False
    checksums: tuple = ()


@dataclass(frozen=True)
class Source:
    """One data set: names, shape of an image, classes, layouts in order of preference, how to get it.

    items : of a set of scenes, the data set whose images they show;  task : classify or detect
    """

    name: str
    aliases: tuple
    item_shape: tuple
    classes: tuple
    layouts: tuple = ()
    obtain: tuple = ()
    items: str = ""
    task: str = "classify"


IDX_FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte",
             "t10k-labels-idx1-ubyte")
_BINARY = tuple(f"data_batch_{i}.bin" for i in range(1, 6)) + ("test_batch.bin",)
_PICKLED = tuple(f"data_batch_{i}" for i in range(1, 6)) + ("test_batch",)
_NUMERALS = tuple("0123456789")


def _idx_layouts(folders, checksums):
    return tuple(Layout("idx", folder, IDX_FILES, shared_names=folder == "", checksums=checksums)
                 for folder in (*folders, ""))


_MNIST_SHA256 = ("ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
                 "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
                 "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
                 "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2")
_FASHION_SHA256 = ("c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
                   "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
                   "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
                   "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34")
_CIFAR10_MD5 = ("c99cafc152244af753f735de768cd75f", "d4bba439e000b95fd0a9bffe97cbabec",
                "54ebc095f3ab1f0389bbae665268c751", "634d18415352ddfa80567beed471001a",
                "482c414d41f54cd18b22e5b47cb7c3cb", "40351d587109b95175f43aff81a1287e")

_DIGITS = Source("digits", ("digits8x8",), (8, 8, 1), _NUMERALS)

_MNIST = Source(
    "mnist", ("MNIST",), (28, 28, 1), _NUMERALS,
    layouts=(*_idx_layouts(("mnist", "MNIST/raw", "MNIST"), _MNIST_SHA256),
             Layout("npz", "", ("mnist.npz",), checksums=_MNIST_SHA256)),
    obtain=("put the four .gz files of https://ossci-datasets.s3.amazonaws.com/mnist/ into ./data/mnist",))

_FASHION = Source(
    "fashion-mnist", ("fashion", "fashion_mnist", "fmnist", "FashionMNIST"), (28, 28, 1),
    ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag",
     "Ankle boot"),
    layouts=_idx_layouts(("fashion-mnist", "FashionMNIST/raw", "FashionMNIST"), _FASHION_SHA256),
    obtain=("Debian and Ubuntu: apt-get install dataset-fashion-mnist",
            "put the four .gz files of http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/ "
            "into ./data/fashion-mnist"))

_CIFAR10 = Source(
    "cifar10", ("cifar-10", "CIFAR10", "cifar"), (32, 32, 3),
    ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
    layouts=(Layout("binary", "cifar-10-batches-bin", _BINARY),
             Layout("pickled", "cifar-10-batches-py", _PICKLED, checksums=_CIFAR10_MD5),
             Layout("binary", "", _BINARY, shared_names=True),
             Layout("pickled", "", _PICKLED, shared_names=True, checksums=_CIFAR10_MD5)),
    obtain=("unpack https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz (or cifar-10-binary.tar.gz) "
            "in ./data",))

_SCENES = tuple(Source(name, aliases, (96, 96, 3), of.classes, items=of.name, task="detect")
                for name, aliases, of in (("digit-scenes", (), _DIGITS),
                                          ("fashion-scenes", ("scenes",), _FASHION)))
_VOC = Source("voc", ("pascal-voc", "VOC"), (96, 96, 3), (), task="detect", obtain=(
    "name a folder with JPEGImages/, Annotations/ and ImageSets/Main/ by --data-root (root=)",))

SOURCES = {source.name: source for source in (_DIGITS, _MNIST, _FASHION, _CIFAR10, *_SCENES, _VOC)}
_ALIASES = {alias: source for source in SOURCES.values() for alias in (source.name, *source.aliases)}


def names():
    """Names of the known data sets, the embedded default first."""
    return tuple(SOURCES)


def source_of(name):
    """The Source called `name` or one of its aliases (an exact match, nothing is guessed).

    Raises DataError for an unknown name, with the nearest valid names.
    """
    if name in _ALIASES:
        return _ALIASES[name]
    near = difflib.get_close_matches(str(name).lower(), SOURCES, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(map(repr, near))}? " if near else ""
    raise DataError(f"unknown data set {name!r}; {hint}Valid names: {', '.join(SOURCES)}")
