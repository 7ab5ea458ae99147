"""The .mqz file: what comes back is what was stored, at the promised size; damage of any kind is a clear error."""

import copy
import json
import os
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minquant.deploy import Program, file, lower
from minquant.deploy.file import ALIGNMENT, PREAMBLE, ProgramFileError
from minquant.deploy.ops import Concat, Flatten, Linear, Logits, Weighted
from tests.deploy_models import DIGITS, stored_model
from tests.test_deploy_ops import tiny, weights

SMALL = file.dump(tiny())


def joined():
    """A Program that concatenates its input's codes and others, both through tables."""
    rng = np.random.default_rng(0)
    start = tiny().ops[:3]
    join = Concat("concat", (1, 3), rng.integers(0, 9, (2, 256), dtype=np.uint8))
    last = weights(rng, (12, 3), 2) | dict(name="fc", inputs=(5,))
    return Program((2, 2, 1), (*start, join, Flatten("flatten", (4,)), Linear(**last),
                               Logits("logits", (6,), ("multiply",), np.ones((1, 3)))), {})


def header_of(content):
    """(header as a dict, data) of a file's bytes."""
    _, _, _, h, _ = PREAMBLE.unpack(content[:PREAMBLE.size])
    return json.loads(content[PREAMBLE.size:PREAMBLE.size + h]), content[PREAMBLE.size + h:]


def sealed(header, data):
    return np.frombuffer(file.seal(json.dumps(header).encode(), data), np.uint8)


def parse(content):
    return file.parse(np.frombuffer(content, np.uint8))


@pytest.mark.parametrize("network,name,bits", [("lenet5", "cpq", 3), ("lenet5", "qnet", 8), ("resnet20", "minmax", 2)])
@pytest.mark.parametrize("mapped", [False, True])
def test_a_loaded_program_is_the_stored_one(network, name, bits, mapped, tmp_path):
    program = lower(stored_model(network, name, bits), DIGITS.image_shape, DIGITS.normalise, {"data": "digits"})
    path = tmp_path / "model.mqz"
    assert file.save(program, path) == path.stat().st_size
    loaded = file.load(path, mapped=mapped)
    assert file.dump(loaded) == path.read_bytes() and loaded.info == program.info
    assert loaded.summary() == program.summary()
    np.testing.assert_array_equal(loaded.run(DIGITS.test.images[:20]), program.run(DIGITS.test.images[:20]))


@pytest.mark.parametrize("bits", range(1, 9))
def test_weights_take_b_bits_each_and_the_rest_is_what_the_header_says(bits):
    program = lower(stored_model("lenet5", "minmax", bits), DIGITS.image_shape, DIGITS.normalise)
    content = file.dump(program)
    header, data = header_of(content)
    sizes = []
    for op, entry in zip(program.ops, header["ops"]):
        for name, (dtype, shape) in entry["arrays"].items():
            sizes.append(int(np.prod(shape)) * np.dtype(dtype).itemsize)
            if name == "stream":
                assert sizes[-1] == -(-bits * op.codes.size // 8)
    assert len(data) == sum(-(-size // ALIGNMENT) * ALIGNMENT for size in sizes)
    assert sum(len(op.stream) for op in program.ops if isinstance(op, Weighted)) * 8 - bits * sum(
        op.codes.size for op in program.ops if isinstance(op, Weighted)) < 8 * 5


def test_a_mapped_file_is_not_copied(tmp_path):
    file.save(tiny(), tmp_path / "model.mqz")
    program = file.load(tmp_path / "model.mqz", mapped=True)
    assert all(isinstance(a, np.memmap) for op in program.ops for a in op.arrays().values() if a.size)


def test_every_changed_byte_is_noticed():
    parse(SMALL)
    for place in range(len(SMALL)):
        for flip in (0x01, 0xFF):
            damaged = bytearray(SMALL)
            damaged[place] ^= flip
            with pytest.raises(ProgramFileError, match="not an .mqz|format version|lengths say|checksum"):
                parse(bytes(damaged))


def test_every_truncation_and_every_extension_is_noticed():
    for length in range(len(SMALL)):
        with pytest.raises(ProgramFileError, match="shorter than the 32|cut off or damaged"):
            parse(SMALL[:length])
    with pytest.raises(ProgramFileError, match="its lengths say"):
        parse(SMALL + b"\0")


def test_a_file_of_the_future_is_refused_by_its_version_and_an_empty_one_by_its_length(tmp_path):
    future = bytearray(SMALL)
    future[8] = 2
    (tmp_path / "future.mqz").write_bytes(future)
    with pytest.raises(ProgramFileError, match="future.mqz: it has format version 2, this program reads 1; read it"):
        file.load(tmp_path / "future.mqz")
    (tmp_path / "empty.mqz").write_bytes(b"")
    for mapped in (False, True):
        with pytest.raises(ProgramFileError, match="empty.mqz: a file of 0 bytes"):
            file.load(tmp_path / "empty.mqz", mapped=mapped)


VALUES = st.one_of(
    st.none(), st.booleans(), st.floats(), st.text(max_size=4), st.sampled_from([[], {}, [[]], "Linear", "<f8", "|u1"]),
    st.integers(-3, 300), st.sampled_from([2 ** 31 - 1, 2 ** 31, -2 ** 31, 2 ** 62, 2 ** 200, 1 << 26]),
    st.lists(st.integers(-2, 2 ** 33), max_size=5))


def paths(value, prefix=()):
    """Every place in nested JSON."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in items:
        yield (*prefix, key)
        yield from paths(child, (*prefix, key))


HEADER, DATA = header_of(SMALL)
FILES = {"tiny": (HEADER, DATA), "concat": header_of(file.dump(joined()))}


@pytest.mark.parametrize("name", FILES)
@given(drawn=st.data())
@settings(max_examples=400, deadline=None)
def test_a_header_of_any_content_gives_a_program_or_a_clear_error(name, drawn):
    header, content = copy.deepcopy(FILES[name])
    places = st.tuples(st.sampled_from(list(paths(header))), VALUES, st.booleans())
    for place, value, remove in drawn.draw(st.lists(places, min_size=1, max_size=3)):
        target = header
        try:
            for key in place[:-1]:
                target = target[key]
            if remove:
                del target[place[-1]]
            else:
                target[place[-1]] = copy.deepcopy(value)  # later edits may reach into it
        except (KeyError, IndexError, TypeError):
            continue  # an earlier edit took the place away
    try:
        program = file.parse(sealed(header, content))
    except ProgramFileError:
        return
    assert isinstance(program, Program)
    if np.prod(program.image_shape) < 10_000:
        assert program.run(np.zeros((1, *program.image_shape), np.uint8)).shape == (1, program.classes)


@pytest.mark.parametrize("name", FILES)
@given(drawn=st.data())
@settings(max_examples=100, deadline=None)
def test_arrays_of_any_content_give_a_program_that_runs_or_a_clear_error(name, drawn):
    header, content = FILES[name]
    try:
        program = file.parse(sealed(header, drawn.draw(st.binary(min_size=len(content), max_size=len(content)))))
    except ProgramFileError:
        return
    with np.errstate(all="ignore"):
        assert program.run(np.full((2, 2, 2, 1), 200, np.uint8)).shape == (2, 3)


@pytest.mark.parametrize("header", [b"", b"[]", b"nan", b"{", b"\xff\xfe", b"[" * 100_000, b"1" * 10_000,
                                    b'{"image":[2,2,1],"info":{},"ops":[]}', b'{"image":[2,2,1],"info":[],"ops":{}}'])
def test_a_header_that_is_not_ours_is_refused(header):
    with pytest.raises(ProgramFileError):
        parse(file.seal(header, b""))


def test_a_small_file_cannot_claim_large_arrays_or_tensors():
    tracemalloc.start()
    for name, place, value, message in (
            ("tiny", ("ops", 1, "arrays", "stream", 1), [2 ** 31 - 1], "'conv'.stream of shape .* goes beyond the end"),
            ("tiny", ("ops", 2, "arrays", "thresholds", 1), [2 ** 20, 2 ** 20], "thresholds .* goes beyond"),
            ("tiny", ("ops", 1, "shape"), [30000, 30000, 1, 2], "1 bytes are not 1800000000 codes of 2 bits"),
            ("tiny", ("image",), [2 ** 30, 2 ** 30, 1], "values per image; at most"),
            ("tiny", ("ops", 1, "padding"), 2 ** 20, "padding 1048576"),
            ("tiny", ("ops", 4, "bits"), 200, "with 200 bits"),
            ("concat", ("ops", 3, "arrays", "tables", 1), [2 ** 20, 256], "'concat'.tables .* goes beyond the end"),
            ("concat", ("ops", 3, "inputs"), [1] * 1001, "inputs is not a short list"),
            ("concat", ("ops", 3, "inputs"), [], "inputs is not a short list"),
            ("concat", ("ops", 3, "inputs"), [1] * 1000, r"'concat': tables of shape \(2, 256\) for 1000 operands"),
            ("concat", ("ops", 3, "inputs"), [1, 5], r"'concat': it reads tensors \(1, 5\); so far there are 4")):
        header, data = copy.deepcopy(FILES[name])
        target = header
        for key in place[:-1]:
            target = target[key]
        target[place[-1]] = value
        with pytest.raises(ProgramFileError, match=message):
            file.parse(sealed(header, data))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5_000_000


def test_a_failed_write_leaves_the_previous_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "model.mqz"
    file.save(tiny(), path)
    before = path.read_bytes()

    def full(*_):
        raise OSError("no space left")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="no space"):
        file.save(tiny(np.random.default_rng(5)), path)
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["model.mqz"]
