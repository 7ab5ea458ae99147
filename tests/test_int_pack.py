"""The storage format of codes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minquant import intops, kernels

MODULES = [intops, kernels]


def test_the_stream_has_the_bits_of_the_diagram():
    codes = np.array([1, 2, 3, 4, 5, 6], np.uint8)
    number = sum(int(code) << 3 * i for i, code in enumerate(codes))
    for module in MODULES:
        assert module.pack_bits(codes, 3).tobytes() == number.to_bytes(3, "little")


@settings(max_examples=100, deadline=None)
@given(shape=st.sampled_from([(0,), (1,), (7,), (8,), (9,), (3, 5), (4, 0), (2, 3, 3, 5), (129,)]),
       bits=st.integers(1, 8), seed=st.integers(0, 99), reverse=st.booleans())
def test_every_packer_is_undone_by_every_unpacker(shape, bits, seed, reverse):
    codes = np.random.default_rng(seed).integers(0, 1 << bits, shape).astype(np.uint8)
    codes = codes[::-1] if reverse else codes
    for packer in MODULES:
        stream = packer.pack_bits(codes, bits)
        assert stream.size == -(-codes.size * bits // 8)
        for unpacker in MODULES:
            assert np.array_equal(unpacker.unpack_bits(stream, bits, shape), codes)


@pytest.mark.parametrize("module", MODULES)
def test_codes_and_streams_that_do_not_fit_are_refused(module):
    with pytest.raises(ValueError, match="code 8 does not fit into bits=3: the limit is 7"):
        module.pack_bits(np.array([8], np.uint8), 3)
    with pytest.raises(ValueError, match="take 2 bytes"):
        module.unpack_bits(np.zeros(3, np.uint8), 3, (5,))
    with pytest.raises(ValueError, match="bits=9"):
        module.unpack_bits(np.zeros(3, np.uint8), 9, (5,))
