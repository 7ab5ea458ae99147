"""What several test files share."""

import os
from pathlib import Path

import numpy as np

VECTORS = Path(__file__).parent / "vectors"


def vectors(paper):
    """Golden vectors of a paper, from tests/vectors or from the folder that MINQUANT_VECTORS names."""
    folder = Path(os.environ.get("MINQUANT_VECTORS") or VECTORS)
    with np.load(folder / f"{paper}_vectors.npz", allow_pickle=False) as archive:
        return {key: archive[key] for key in archive.files}


def assert_close(actual, expected, relative=1e-9, absolute=0.0):
    """|actual - expected| <= relative * max(1, max|expected|) + absolute, with the worst element in the message."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.shape == expected.shape, f"shape {actual.shape} is not {expected.shape}"
    if not expected.size:
        return
    error = np.abs(actual - expected)
    limit = relative * max(1.0, float(np.abs(expected).max())) + absolute
    worst = np.unravel_index(np.argmax(error), error.shape)
    assert error.max() <= limit, (f"at {worst}: {actual[worst]} is not {expected[worst]} "
                                  f"(error {error.max():.2e}, limit {limit:.2e})")
