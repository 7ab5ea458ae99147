"""Folders in the layout of PASCAL VOC: what is read, what is cut, what is refused and how it is named."""

import numpy as np
import pytest
from PIL import Image

from minquant import data
from minquant.data import voc

OBJECT = ("<object><name>{0}</name><difficult>{5}</difficult><bndbox><xmin>{1}</xmin><ymin>{2}</ymin>"
          "<xmax>{3}</xmax><ymax>{4}</ymax></bndbox></object>")


def annotation(*objects, size=(48, 24)):
    stated = f"<size><width>{size[0]}</width><height>{size[1]}</height><depth>3</depth></size>" if size else ""
    return f"<annotation>{stated}{''.join(OBJECT.format(*o) for o in objects)}</annotation>"


CAT = ("cat", 1, 1, 24, 12, 0)


@pytest.fixture
def folder(tmp_path):
    """Four training and two test images of 48 x 24 pixels."""
    for name in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (tmp_path / name).mkdir(parents=True)
    names = ["a", "b", "c", "d", "e", "f"]
    for name in names:
        Image.new("RGB", (48, 24), (200, 30, 60)).save(tmp_path / "JPEGImages" / f"{name}.jpg")
        write(tmp_path, name, annotation(CAT, ("dog", 25, 1, 48, 24, 1)))
    (tmp_path / "ImageSets/Main/trainval.txt").write_text("a\nb\nc\nd\n")
    (tmp_path / "ImageSets/Main/test.txt").write_text("e\nf\n")
    return tmp_path


def write(folder, name, text):
    (folder / "Annotations" / f"{name}.xml").write_text(text)


def load(folder, **more):
    return data.load("voc", folder, validation=0.25, **more)


def test_a_folder_is_read_with_boxes_scaled_to_the_new_size(folder):
    dataset = load(folder)
    assert [len(s) for s in (dataset.train, dataset.validation, dataset.test)] == [3, 1, 2]
    assert dataset.classes == ("cat", "dog") and dataset.image_shape == (96, 96, 3) and dataset.task == "detect"
    np.testing.assert_array_equal(dataset.test.labels[0], [[0, 0, 0, 48, 48, 0], [1, 48, 0, 96, 96, 1]])
    np.testing.assert_allclose(dataset.test.images[0, 50, 50], (200, 30, 60), atol=3)


def test_grey_images_of_any_size_become_colour_images_of_one_size(folder):
    Image.new("L", (301, 7), 90).save(folder / "JPEGImages" / "e.jpg")
    write(folder, "e", annotation(("cat", 1, 1, 301, 7, 0), size=None))
    split = load(folder).test
    assert split.images.shape == (2, 96, 96, 3) and split.labels[0, 0].tolist() == [0, 0, 0, 96, 96, 0]


def test_an_image_without_objects_is_an_image_without_objects(folder):
    write(folder, "e", annotation())
    assert (load(folder).test.labels[0, :, 0] == -1).all()


def test_a_box_that_reaches_beyond_the_image_is_cut_at_its_border(folder):
    write(folder, "e", annotation(("cat", -10, 0, 24, 99, 0)))
    assert load(folder).test.labels[0, 0].tolist() == [0, 0, 0, 48, 96, 0]


@pytest.mark.parametrize("box", [(60, 1, 70, 9), (10, 1, 9, 9), (5, 20, 15, 12)])
def test_a_box_without_area_inside_the_image_is_refused(folder, box):
    write(folder, "e", annotation(("cat", *box, 0)))
    with pytest.raises(data.DataError, match=r"e.xml: the box of 'cat', x .* has no area inside the image of 48x24"):
        load(folder)


def test_classes_txt_fixes_the_classes_and_an_unknown_one_is_named(folder):
    (folder / "classes.txt").write_text("dog\ncat\n")
    assert load(folder).classes == ("dog", "cat") and load(folder).test.labels[0, 0, 0] == 1
    write(folder, "b", annotation(("bird", 1, 1, 9, 9, 0)))
    with pytest.raises(data.DataError, match="b.xml: unknown class 'bird'; the classes are dog, cat"):
        load(folder)


def test_an_annotation_for_an_image_of_another_size_is_refused(folder):
    write(folder, "e", annotation(CAT, size=(640, 480)))
    with pytest.raises(data.DataError, match="e.xml: it is for an image of 640x480 pixels; e.jpg has 48x24"):
        load(folder)


BOMB = ('<?xml version="1.0"?><!DOCTYPE b [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;">'
        '<!ENTITY c "&b;&b;&b;&b;&b;&b;">]><annotation><object><name>&c;</name></object></annotation>')
EXTERNAL = ('<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><annotation><object><name>&x;</name></object>'
            "</annotation>")


@pytest.mark.parametrize("text,message", [
    ("", "no element found"),
    ("<annotation><object>", "no element found"),
    ("<annotation>&undefined;</annotation>", "undefined entity"),
    ("not xml", "syntax error"),
    (BOMB, "declares a document type"),
    (EXTERNAL, "declares a document type"),
    (annotation(("", 1, 1, 5, 5, 0)), "an object has no name"),
    (annotation(("cat", "left", 1, 5, 5, 0)), "bndbox/xmin is 'left', not a number"),
    (annotation(("cat", "nan", 1, 5, 5, 0)), "bndbox/xmin is 'nan', not a number"),
    ("<annotation><object><name>cat</name></object></annotation>", "bndbox/xmin is None, not a number"),
])
def test_a_malformed_annotation_is_refused_by_name(folder, text, message):
    write(folder, "c", text)
    with pytest.raises(data.DataError, match=f"c.xml: .*{message}"):
        load(folder)


def test_missing_and_damaged_images_are_named(folder):
    path = folder / "JPEGImages" / "e.jpg"
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(data.DataError, match="e.jpg: cannot be read as an image"):
        load(folder)
    path.unlink()
    with pytest.raises(data.DataNotFoundError, match="e.jpg: the image is missing"):
        load(folder)
    (folder / "Annotations" / "f.xml").unlink()
    with pytest.raises(data.DataNotFoundError, match="f.xml: the annotation is missing"):
        load(folder)


def test_sets_without_images_and_names_that_leave_the_folder_are_refused(folder):
    sets = folder / "ImageSets" / "Main"
    (sets / "test.txt").write_text("../../secret\n")
    with pytest.raises(data.DataError, match="'../../secret' is not the name of an image"):
        load(folder)
    (sets / "test.txt").unlink()
    with pytest.raises(data.DataError, match="expected train.txt or trainval.txt, and test.txt or val.txt"):
        load(folder)


def test_a_folder_of_another_layout_says_what_is_expected(tmp_path):
    with pytest.raises(data.DataNotFoundError, match="expected the folders JPEGImages, Annotations"):
        load(tmp_path)
    with pytest.raises(data.DataError, match="name the folder by --data-root"):
        data.load("voc")


def test_an_annotation_that_is_too_long_is_not_read(folder, monkeypatch):
    monkeypatch.setattr(voc, "LARGEST_ANNOTATION", 50)
    with pytest.raises(data.DataError, match="longer than 50 bytes"):
        load(folder)
