"""The compiled executor gives the integers of the NumPy oracle: every operation, form, batch, thread number."""

import copy
import itertools
import pickle
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minquant import check, kernels
from minquant.deploy import executor, lower
from minquant.deploy.program import MAX_THREADS
from tests.deploy_models import DIGITS, stored_model
from tests.random_programs import (even_ladders, few_channels, large_images, many_panels, near_ties, pooled,
                                   random_program, side_by_side)

ISAS = kernels.info()["isa"]["available"]
MODELS = [("lenet5", "minmax", 8), ("lenet5", "qnet", 2), ("resnet20", "apot", 3), ("resnet20", "minmax", 8),
          ("mobilenet_tiny", "lsq", 4), ("vgg_small", "cpq", 4), ("squeezenet_tiny", "dgms", 4)]
pytestmark = pytest.mark.skipif(not ISAS, reason="needs the compiled kernels")


@pytest.fixture(scope="module", params=MODELS, ids=lambda p: "-".join(map(str, p)))
def program(request):
    return lower(stored_model(*request.param), DIGITS.image_shape, DIGITS.normalise)


def assert_equal_traces(program, images, threads=1):
    with np.errstate(all="ignore"):
        expected = program.trace(images, backend="numpy")
    found = program.trace(images, threads, backend="kernels")
    assert list(found) == list(expected)
    for name, values in expected.items():
        assert found[name].dtype == values.dtype and found[name].shape == values.shape, name
        np.testing.assert_array_equal(found[name], values, err_msg=name)
    np.testing.assert_array_equal(program.run(images, threads, backend="kernels"), values)


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 2 ** 32 - 1), images=st.sampled_from([1, 2, 3, 5]), threads=st.integers(1, 4),
       isa=st.sampled_from(ISAS))
def test_any_program_gives_the_oracles_integers_on_every_instruction_set(seed, images, threads, isa):
    rng = np.random.default_rng(seed)
    program = random_program(rng)
    pixels = rng.integers(0, 256, (images, *program.image_shape), dtype=np.uint8)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINQUANT_ISA", isa)
        assert_equal_traces(program, pixels, threads)


@pytest.mark.parametrize("isa", ISAS)
def test_sums_on_and_beside_a_boundary_are_settled_in_float64(isa, monkeypatch):
    monkeypatch.setenv("MINQUANT_ISA", isa)
    pixels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    for seed in range(20):
        assert_equal_traces(near_ties(np.random.default_rng(seed)), pixels)


@pytest.mark.parametrize("isa", ISAS)
def test_long_lines_of_sums_that_two_additions_read_are_settled_to_their_end(isa, monkeypatch):
    monkeypatch.setenv("MINQUANT_ISA", isa)
    pixels = np.arange(256, dtype=np.uint8).reshape(1, 2, 128, 1)
    for seed in range(20):
        assert_equal_traces(near_ties(np.random.default_rng(seed), pixels.shape[1:], additions=2), pixels)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("make", [few_channels, side_by_side])
def test_pixels_made_together_or_among_those_of_a_concatenation_give_the_oracles_integers(make, isa, monkeypatch):
    monkeypatch.setenv("MINQUANT_ISA", isa)
    for seed in range(40):
        rng = np.random.default_rng(seed)
        program = make(rng)
        pixels = rng.integers(0, 256, (1 + seed % 3, *program.image_shape), dtype=np.uint8)
        assert_equal_traces(program, pixels, 1 + seed % 2)


@pytest.mark.parametrize("isa", ISAS)
def test_rows_of_small_images_that_lie_side_by_side_give_the_oracles_integers(isa, monkeypatch):
    monkeypatch.setenv("MINQUANT_ISA", isa)
    for seed in range(12):
        rng = np.random.default_rng(seed)
        program = many_panels(rng)
        pixels = rng.integers(0, 256, ((1, 3, 18)[seed % 3], *program.image_shape), dtype=np.uint8)
        assert_equal_traces(program, pixels, 1 + seed // 3 % 2)


@pytest.mark.parametrize("images, threads", [(1, 1), (2, 2), (9, 1), (11, 2), (9, 4)])
def test_images_that_wait_for_others_before_the_late_steps_give_the_oracles_integers(images, threads):
    rng = np.random.default_rng(images)
    program = large_images(rng)
    assert_equal_traces(program, rng.integers(0, 256, (images, *program.image_shape), dtype=np.uint8), threads)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("depthwise", [False, True])
def test_ladders_of_nearly_even_steps_give_the_oracles_integers(depthwise, isa, monkeypatch):
    monkeypatch.setenv("MINQUANT_ISA", isa)
    pixels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    for seed in range(12):
        assert_equal_traces(even_ladders(np.random.default_rng(seed), depthwise), pixels)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("channels", [1, 2, 3, 7, 8, 9, 40])
def test_maxima_of_short_and_long_pixels_are_those_of_the_oracle(channels, isa, monkeypatch):
    monkeypatch.setenv("MINQUANT_ISA", isa)
    rng = np.random.default_rng(channels)
    pixels = rng.integers(0, 256, (2, 7, 50, channels), dtype=np.uint8)
    for size, stride in itertools.product((1, 2, 3), (1, 2, 3)):
        assert_equal_traces(pooled(rng, channels, size, stride), pixels, threads=stride)


@pytest.mark.parametrize("isa", ISAS)
def test_networks_give_the_oracles_integers_on_every_instruction_set(program, isa, monkeypatch):
    monkeypatch.setenv("MINQUANT_ISA", isa)
    assert_equal_traces(program, DIGITS.test.images[:3])


@pytest.fixture(scope="module")
def logits(program):
    return program.run(DIGITS.test.images[:33], backend="numpy")


@pytest.mark.parametrize("images,threads", [(1, 1), (1, 2), (3, 2), (5, 4), (33, 1), (33, 4)])
def test_batch_and_threads_change_nothing(program, logits, images, threads):
    np.testing.assert_array_equal(program.run(DIGITS.test.images[:images], threads), logits[:images])


def test_threads_that_share_one_image_give_the_same_trace(program):
    assert_equal_traces(program, DIGITS.test.images[:1], threads=2)


def test_bit_exact_counts_the_codes_that_the_executor_computed():
    model = stored_model("lenet5", "lsq", 4)
    program = lower(model, DIGITS.image_shape, DIGITS.normalise)
    agreement = check.bit_exact(model, program, DIGITS.test.images[:20], DIGITS.normalise)
    assert agreement.codes == 20 * sum(int(np.prod(t.shape)) for op, t in zip(program.ops, program.tensors[1:])
                                       if op.name.endswith("_quantizer"))


def test_a_profile_names_every_operation_and_adds_up_to_a_run(program):
    profile = program.profile(DIGITS.test.images[:1], 1, repeats=3)
    assert list(profile) == [op.name for op in program.ops]
    assert 0 < sum(profile.values()) < 1 and all(seconds >= 0 for seconds in profile.values())


def test_copies_and_pickles_run_alike(program):
    pixels = DIGITS.test.images[:2]
    expected = program.run(pixels)
    for other in (copy.deepcopy(program), pickle.loads(pickle.dumps(program))):
        np.testing.assert_array_equal(other.run(pixels), expected)


@pytest.mark.parametrize("arguments,message", [
    ({"num_threads": 0}, f"num_threads=0 does not work; it takes 1..{MAX_THREADS}"),
    ({"num_threads": 10 ** 9}, "num_threads=1000000000 does not work"),
    ({"backend": "cuda"}, "backend='cuda' is unknown; it is 'kernels', 'numpy' or None"),
])
def test_what_cannot_run_is_refused(program, arguments, message):
    for method in (program.run, program.trace):
        with pytest.raises(ValueError, match=message):
            method(DIGITS.test.images[:1], **arguments)


def test_an_instruction_set_that_is_not_here_is_an_error(program, monkeypatch):
    monkeypatch.setenv("MINQUANT_ISA", "avx1024")
    with pytest.raises(ValueError, match="MINQUANT_ISA='avx1024' is not available"):
        program.run(DIGITS.test.images[:1])


def test_images_with_gaps_in_memory_and_no_images_run(program):
    pixels = DIGITS.test.images[:6]
    np.testing.assert_array_equal(program.run(pixels[::2]), program.run(pixels)[::2])
    np.testing.assert_array_equal(program.run(pixels[:, :, ::-1]), program.run(pixels[:, :, ::-1].copy()))
    assert program.run(pixels[:0]).shape == (0, program.classes)
    traces = [program.trace(pixels[:0], backend=backend) for backend in ("kernels", "numpy")]
    assert [v.shape for v in traces[0].values()] == [v.shape for v in traces[1].values()]


@pytest.mark.parametrize("tap,error,message", [
    (np.empty(3, np.uint8), ValueError, r"taps\[0\] has 3 bytes; operation 0 gives \d"),
    ("text", AttributeError, "reshape"),
])
def test_a_wrong_tap_is_refused_and_leaves_no_memory_behind(program, tap, error, message):
    made, image, logits = executor.make(program, ISAS[0]), DIGITS.test.images[:1], np.empty(program.classes)
    others = [None] * (len(program.ops) - 1)

    def memory_after(refusals):
        for _ in range(refusals):
            with pytest.raises(error, match=message):
                made.run(image, logits, 1, [tap, *others])
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    warm = memory_after(20)
    grown = memory_after(100) - warm
    tracemalloc.stop()
    assert grown < 4 * 100 * len(program.ops)  # a list of taps has 8 bytes an operation
    with pytest.raises(ValueError, match="images, logits, threads, taps or ticks do not fit the network"):
        made.run(image, logits, 1, others)
    made.run(image, logits, 1, [None, *others])
    np.testing.assert_array_equal(logits, program.run(image)[0])
