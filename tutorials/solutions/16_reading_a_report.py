"""Give 8 bits to one side at a time: the side that brings more of the accuracy back was to blame."""

import tempfile
from pathlib import Path

from minquant import data
from minquant.config import Config
from minquant.progress import Progress
from minquant.run import Run

digits, folder = data.load("digits"), Path(tempfile.mkdtemp(prefix="minquant-"))
common = {"model": "lenet5", "data": "digits"}
Run(Config(**common, method="float", float_epochs=5), folder / "float", digits, Progress(quiet=True)).train()
accuracy = {}
for bits, act_bits in ((3, 4), (3, 8), (8, 4)):
    config = Config(**common, method="ptq", bits=bits, act_bits=act_bits, epochs=0, float_from=str(folder / "float"))
    report = Run(config, folder / f"w{bits}a{act_bits}", digits, Progress(quiet=True)).train()
    accuracy[bits, act_bits] = report["accuracy"]
    print(f"weights {bits} bits, activations {act_bits} bits: {accuracy[bits, act_bits]:.1%}")
assert accuracy[8, 4] > accuracy[3, 8] > accuracy[3, 4] - 0.02  # here the weights were
