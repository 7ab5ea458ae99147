"""Folders in the layout of PASCAL VOC: JPEGImages/NAME.jpg, Annotations/NAME.xml, ImageSets/Main/SPLIT.txt.

Images are resized to one size, and their boxes with them. An annotation is read without its document type: a file
that declares one (entities, external files) is refused. `classes.txt`, a name per line, fixes the classes and their
order; without it they are those of all annotations, sorted.
"""

from dataclasses import dataclass
from pathlib import Path
from xml.etree.ElementTree import TreeBuilder
from xml.parsers import expat

import numpy as np

from .batches import hold_out
from .boxes import COLUMNS, BoxSplit
from .dataset import DataError, DataNotFoundError, Dataset, pixel_statistics
from .scenes import SIZE

LARGEST_ANNOTATION = 10 << 20  # bytes


@dataclass(frozen=True)
class Item:
    """One object of an annotation: name of its class, edges in pixels of the original image, difficult or not."""

    name: str
    x1: float
    y1: float
    x2: float
    y2: float
    difficult: bool


def load(root, *, validation=0.1, seed=0, limit=None, size=SIZE):
    """The `Dataset` of a folder; arguments as `minquant.data.load`, images resized to size x size.

    Training images: trainval.txt, else train.txt and, where there is a test.txt, val.txt. Test images: test.txt, else
    val.txt. Raises DataError, naming the file, for whatever is missing, damaged or contradicts itself.
    """
    if root is None:
        raise DataError("voc: name the folder by --data-root (root=)")
    folder = Path(root).expanduser()
    if not (folder / "Annotations").is_dir() or not (folder / "JPEGImages").is_dir():
        raise DataNotFoundError(f"{folder}: not in the layout of PASCAL VOC; expected the folders JPEGImages, "
                                "Annotations and ImageSets/Main")
    training, test = (names[:limit] for names in split_names(folder))
    annotations = {name: read_annotation(folder / "Annotations" / f"{name}.xml") for name in {*training, *test}}
    classes = class_names(folder, annotations)
    whole, tested = (read_split(folder, names, annotations, classes, size) for names in (training, test))
    first = whole.labels[:, 0, 0] if whole.labels.shape[1] else np.full(len(training), -1)  # strata by first class
    kept, held = hold_out(first, validation, np.random.default_rng(seed))
    train, validated = (BoxSplit(whole.images[part], whole.labels[part]) for part in (kept, held))
    mean, std = pixel_statistics(train.images)
    return Dataset("voc", train, validated, tested, classes, mean, std, str(folder))


def split_names(folder):
    """(training, test) lists of image names."""
    sets = folder / "ImageSets" / "Main"
    found = {path.stem: path.read_text(encoding="utf-8").split() for path in sorted(sets.glob("*.txt"))}
    training = found.get("trainval") if "test" in found else None
    if training is None:
        training = found.get("train", []) + (found.get("val", []) if "test" in found else [])
    test = found.get("test") or found.get("val") or []
    if not training or not test:
        raise DataError(f"{sets}: expected train.txt or trainval.txt, and test.txt or val.txt, each with image names; "
                        f"found {', '.join(found) or 'none'}")
    for name in (*training, *test):
        if Path(name).name != name:
            raise DataError(f"{sets}: '{name}' is not the name of an image")
    return training, test


def class_names(folder, annotations):
    """The names of `classes.txt`, or all that the annotations use, sorted."""
    path = folder / "classes.txt"
    used = sorted({item.name for _, items in annotations.values() for item in items})
    if not path.is_file():
        if not used:
            raise DataError(f"{folder / 'Annotations'}: no annotation has an object")
        return tuple(used)
    classes = tuple(line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip())
    if len(set(classes)) < len(classes) or not classes:
        raise DataError(f"{path}: holds no class, or one of them twice")
    return classes


def read_split(folder, names, annotations, classes, size):
    """The `BoxSplit` of these images."""
    most = max(len(annotations[name][1]) for name in names)
    images = np.empty((len(names), size, size, 3), np.uint8)
    objects = np.zeros((len(names), most, len(COLUMNS)), np.float32)
    objects[..., 0] = -1
    for i, name in enumerate(names):
        stated, items = annotations[name]
        images[i], (width, height) = read_image(folder / "JPEGImages" / f"{name}.jpg", size)
        where = folder / "Annotations" / f"{name}.xml"
        if stated and stated != (width, height):
            raise DataError(f"{where}: it is for an image of {stated[0]}x{stated[1]} pixels; "
                            f"{name}.jpg has {width}x{height}")
        for slot, item in enumerate(items):
            objects[i, slot] = scaled(item, classes, width, height, size, where)
    return BoxSplit(images, objects)


def scaled(item, classes, width, height, size, where):
    """The row of an object in the resized image; a box that reaches beyond the image is cut at its border."""
    if item.name not in classes:
        raise DataError(f"{where}: unknown class '{item.name}'; the classes are {', '.join(classes)}")
    x1, x2 = (min(max(x, 0.0), width) * size / width for x in (item.x1, item.x2))
    y1, y2 = (min(max(y, 0.0), height) * size / height for y in (item.y1, item.y2))
    row = np.array([classes.index(item.name), x1, y1, x2, y2, item.difficult], np.float32)
    if not (row[3] > row[1] and row[4] > row[2]):
        raise DataError(f"{where}: the box of '{item.name}', x {item.x1:g} .. {item.x2:g}, y {item.y1:g} .. "
                        f"{item.y2:g}, has no area inside the image of {width}x{height}")
    return row


def read_image(path, size):
    """(image uint8 (size, size, 3), (width, height) of the file)."""
    from PIL import Image
    try:
        with Image.open(path, formats=("JPEG", "PNG")) as image:
            shape = image.size
            return np.asarray(image.convert("RGB").resize((size, size), Image.Resampling.BILINEAR)), shape
    except FileNotFoundError:
        raise DataNotFoundError(f"{path}: the image is missing") from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"{path}: cannot be read as an image ({error})") from error


def read_annotation(path):
    """((width, height) as stated or None, list of `Item`) of an annotation file.

    VOC counts pixels from 1 and includes the last: 1 .. 10 are the edges 0 and 10 here.
    """
    try:
        if path.stat().st_size > LARGEST_ANNOTATION:
            raise DataError(f"{path}: longer than {LARGEST_ANNOTATION:,} bytes")
        root = parse_xml(path.read_bytes())
    except FileNotFoundError:
        raise DataNotFoundError(f"{path}: the annotation is missing") from None
    except (expat.ExpatError, ValueError) as error:
        raise DataError(f"{path}: {error}") from error
    size = [_number(root, f"size/{side}", path, default=0.0) for side in ("width", "height")]
    items = []
    for entry in root.findall("object"):
        name = (entry.findtext("name") or "").strip()
        if not name:
            raise DataError(f"{path}: an object has no name")
        x1, y1, x2, y2 = (_number(entry, f"bndbox/{edge}", path) for edge in ("xmin", "ymin", "xmax", "ymax"))
        difficult = _number(entry, "difficult", path, default=0.0) != 0
        items.append(Item(name, x1 - 1, y1 - 1, x2, y2, difficult))
    return (tuple(map(int, size)) if min(size) > 0 else None), items


def _number(element, name, path, default=None):
    text = element.findtext(name)
    if text is None and default is not None:
        return default
    try:
        value = float(text)
    except (TypeError, ValueError):
        value = float("nan")
    if not abs(value) < 1e9:
        raise DataError(f"{path}: {name} is {text!r}, not a number")
    return value


def parse_xml(content):
    """The root element of XML bytes. Raises ExpatError for malformed XML, ValueError for a document type.

    Entities, the way of an annotation to other files and to memory without end, exist only in a document type.
    """
    builder, parser = TreeBuilder(), expat.ParserCreate()

    def refuse(*_):
        raise ValueError("it declares a document type (DOCTYPE), which annotations have no use for; remove it")

    parser.StartDoctypeDeclHandler = refuse
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    parser.Parse(content, True)
    return builder.close()
