"""Every byte is covered: the checksum by comparison, all others by it. A changed file is refused, never run."""

import numpy as np

from minquant import calibrate, data, lower, models, quantize
from minquant.deploy.file import ProgramFileError, dump, parse

digits, rng = data.load("digits"), np.random.default_rng(0)
model = quantize(models.mlp((8, 8, 1), 10, rng), "minmax", bits=2, act_bits=2, rng=rng)
calibrate(model, digits.normalise(digits.train.images[:64]), rng)
content = np.frombuffer(dump(lower(model, (8, 8, 1), digits.normalise)), np.uint8)
parse(content)
for place in (*range(64), *rng.integers(0, len(content), 200)):
    changed = content.copy()
    changed[place] ^= 1 << int(rng.integers(8))
    try:
        parse(changed)
    except ProgramFileError as error:
        if place in (0, 8, 12, 20):
            print(f"byte {place}: {error}")
    else:
        raise AssertionError(f"a change of byte {place} was not seen")
