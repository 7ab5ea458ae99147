"""The Programs of residual and depthwise networks have the codes of their float64 networks; see test_deploy_lower."""

import numpy as np
import pytest

from minquant import check
from minquant.deploy import file, lower
from minquant.deploy.endings import AddRequantize
from minquant.models import MODELS
from minquant.quantizers import METHODS
from tests.deploy_models import CASES, DIGITS, stored_model
from tests.test_deploy_lower import FULL, IMAGES

SMALL = [("resnet20", name, 2 if 2 in METHODS[name].weight_bits else METHODS[name].weight_bits[0]) for name in METHODS]
SMALL += [("resnet20", "cpq", 4), ("resnet20", "minmax", 8), ("resnet20", "qnet", 4), ("mobilenet_tiny", "lsq", 4),
          ("mobilenet_tiny", "gdrq", 8), ("vgg_small", "rq", 3), ("mlp", "minmax", 4)]
ALL = [(network, name, bits) for network in MODELS if network not in ("lenet5", "resnet18") for name, bits in CASES]
ALL += [("resnet18", "lsq", 4)]  # the blocks of resnet20, eight times as long


@pytest.mark.parametrize("network,name,bits", ALL if FULL else SMALL)
def test_every_code_and_logit_is_that_of_the_float64_network(network, name, bits):
    model = stored_model(network, name, bits)
    program = lower(model, DIGITS.image_shape, DIGITS.normalise)
    images = IMAGES if FULL else IMAGES[:10]
    agreement = check.bit_exact(model, program, images, DIGITS.normalise)
    per_image = sum(int(np.prod(t.shape)) for op, t in zip(program.ops, program.tensors[1:], strict=True)
                    if op.name.endswith("_quantizer"))
    assert agreement.codes == per_image * len(images) and agreement.images == len(images)
    proof = program.info["proof"]
    assert agreement.plain_codes == 0 or proof["unproven"] + proof["unexamined"] > 0


def test_additions_that_float32_gets_wrong_are_computed_in_float64():
    model = stored_model("resnet20", "minmax", 8)
    adds = [op for op in lower(model, DIGITS.image_shape, DIGITS.normalise).ops if isinstance(op, AddRequantize)]
    assert len(adds) == 9 and all(op.wide.all() for op in adds)
    model = stored_model("resnet20", "minmax", 4)
    adds = [op for op in lower(model, DIGITS.image_shape, DIGITS.normalise).ops if isinstance(op, AddRequantize)]
    assert not any(op.wide.any() for op in adds)


LIMITS = {2: 90_000, 4: 160_000}
UNEQUAL = [("cpq", 2), ("cpq", 4), ("qnet", 2), ("apot", 4)]  # the last two have unequal steps: the longest tables


@pytest.mark.parametrize("name,bits", [case for case in CASES if case[1] in LIMITS] if FULL else UNEQUAL)
def test_the_file_of_resnet20_is_as_small_as_its_bits_promise(name, bits, tmp_path):
    program = lower(stored_model("resnet20", name, bits), DIGITS.image_shape, DIGITS.normalise)
    assert file.save(program, tmp_path / "model.mqz") < LIMITS[bits]
