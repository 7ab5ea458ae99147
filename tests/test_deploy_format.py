"""docs/integers.md describes the .mqz file and its arithmetic: a reader written from it gives the same integers."""

import re
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from minquant.deploy import file, lower
from minquant.deploy.ops import OPS
from minquant.deploy.pack import pack
from tests import mqz_reader
from tests.deploy_models import DIGITS, stored_model
from tests.random_programs import random_program
from tests.test_deploy_ops import tiny

PAGE = (Path(__file__).parents[1] / "docs" / "integers.md").read_text(encoding="utf-8")


def described():
    """{operation: (plain fields, {array: type})} of the table of operations in the file's section."""
    rows = re.findall(r"^\| `(\w+)` \| (.*) ?\| (.*) ?\|$", PAGE.split("## The file, byte by byte")[1], re.MULTILINE)
    return {name: (re.findall(r"`(\w+)`", plain), dict(re.findall(r"`(\w+)` (\S\w\d)", arrays.replace("\\|", "|"))))
            for name, plain, arrays in rows}


def test_the_page_lists_the_fields_and_arrays_of_every_operation():
    actual = {name: ([f.name for f in fields(kind) if "dtype" not in f.metadata and f.name not in ("name", "inputs")],
                     {f.name: f.metadata["dtype"] for f in fields(kind) if "dtype" in f.metadata})
              for name, kind in OPS.items()}
    for name in actual:
        assert set(described()[name][0]) == set(actual[name][0]) and described()[name][1] == actual[name][1], name
    assert set(described()) == set(actual)
    meanings = PAGE.split("## Operations")[1].split("###")[0]
    assert set(re.findall(r"^\| `(\w+)` \|", meanings, re.MULTILINE)) == set(OPS)


PROGRAMS = {
    "lenet5 at 3 bits": lambda: lower(stored_model("lenet5", "cpq", 3), DIGITS.image_shape, DIGITS.normalise),
    "resnet20 at 8 bits": lambda: lower(stored_model("resnet20", "minmax", 8), DIGITS.image_shape, DIGITS.normalise),
    "a codebook": lambda: lower(stored_model("lenet5", "qnet", 4), DIGITS.image_shape, DIGITS.normalise),
    "unequal steps": lambda: lower(stored_model("resnet20", "apot", 2), DIGITS.image_shape, DIGITS.normalise),
    "concatenations": lambda: lower(stored_model("squeezenet_tiny", "lsq", 4), DIGITS.image_shape, DIGITS.normalise),
    "a tiny one": tiny,
    **{f"random {seed}": lambda seed=seed: random_program(np.random.default_rng(seed)) for seed in range(12)}}


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_reader_written_from_the_page_computes_every_tensor(name):
    program = PROGRAMS[name]()
    header = mqz_reader.read(file.dump(program))
    images = np.random.default_rng(0).integers(0, 256, (3, *program.image_shape), dtype=np.uint8)
    found = mqz_reader.run(header, images)[1:]
    for op, expected, tensor in zip(program.ops, program.trace(images).values(), found, strict=True):
        np.testing.assert_array_equal(tensor, expected, err_msg=op.name)
    assert header["image"] == list(program.image_shape) and header["info"] == program.info


def test_the_packed_example_of_the_page_is_the_packing():
    codes = np.random.default_rng(1).integers(0, 8, 6, dtype=np.uint8)
    rows = [re.search(rf"^    {what}  +(.*)$", PAGE, re.MULTILINE)[1] for what in ("code", "bit of code")]
    places = zip(*(re.findall(r"\d", row)[:16] for row in rows), strict=True)
    bits = "".join(str(codes[int(code)] >> int(bit) & 1) for code, bit in places)
    assert [int(bits[:8], 2), int(bits[8:], 2)] == pack(codes, 3)[:2].tolist()
    op = {"bits": 3, "shape": [6]}
    found = mqz_reader.weights(op, {"stream": pack(codes, 3), "levels": np.arange(8, dtype=np.int8)})
    np.testing.assert_array_equal(found, codes)
