"""Packing: b bits per code, exactly, in the documented order of bits."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minquant.deploy.pack import pack, packed_bytes, unpack


@given(bits=st.integers(1, 8), count=st.integers(0, 67), seed=st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_unpacking_gives_back_every_code(bits, count, seed):
    codes = np.random.default_rng(seed).integers(0, 2 ** bits, count, dtype=np.uint8)
    stream = pack(codes, bits)
    assert len(stream) == packed_bytes(count, bits) == -(-bits * count // 8)
    np.testing.assert_array_equal(unpack(stream, bits, count), codes)


@pytest.mark.parametrize("bits", range(1, 9))
def test_code_i_occupies_bits_i_b_to_i_b_plus_b_of_the_stream_lowest_first(bits):
    codes = np.random.default_rng(bits).integers(0, 2 ** bits, 13, dtype=np.uint8)
    number = sum(int(code) << (i * bits) for i, code in enumerate(codes))
    assert pack(codes, bits).tobytes() == number.to_bytes(packed_bytes(13, bits), "little")


def test_the_diagram_of_three_bit_codes_is_right():
    stream = pack(np.array([0, 0, 0b111, 0, 0, 0], np.uint8), 3)
    np.testing.assert_array_equal(stream, [0b11000000, 0b00000001, 0])


def test_unused_bits_of_the_last_byte_are_zero():
    assert pack(np.array([7, 7, 7], np.uint8), 3)[-1] == 1


def test_a_code_that_does_not_fit_is_refused_with_the_largest_that_does():
    with pytest.raises(ValueError, match="code 4 does not fit 2 bits; the largest that does is 3"):
        pack(np.array([1, 4], np.uint8), 2)


@pytest.mark.parametrize("codes,bits", [(np.array([1]), 2), (np.array([1], np.uint8), 0), (np.array([1], np.uint8), 9)])
def test_other_types_and_bits_are_refused(codes, bits):
    with pytest.raises(ValueError, match="uint8"):
        pack(codes, bits)


def test_a_stream_of_another_length_is_refused():
    with pytest.raises(ValueError, match="those take 3 bytes"):
        unpack(np.zeros(4, np.uint8), 3, 6)
