"""Size grows with the bits; accuracy stops growing at 4 bits or earlier on this network."""

import tempfile
from pathlib import Path

from minquant import data
from minquant.config import Config
from minquant.progress import Progress
from minquant.run import Run

digits, folder = data.load("digits"), Path(tempfile.mkdtemp(prefix="minquant-"))
common = {"model": "mlp", "data": "digits", "act_bits": 4}
Run(Config(**common, method="float", float_epochs=4), folder / "float", digits, Progress(quiet=True)).train()
points = []
for bits in (2, 4, 8):
    config = Config(**common, method="lsq", bits=bits, epochs=2, float_from=str(folder / "float"))
    report = Run(config, folder / f"{bits}", digits, Progress(quiet=True)).train()
    points.append((report["bytes"], report["accuracy"]))
    print(f"{bits} bits: {report['bytes'] / 1024:.1f} kB, {report['accuracy']:.1%}")
sizes = [size for size, _ in points]
assert sizes == sorted(sizes) and sizes[2] > 2.5 * sizes[0]
assert abs(points[2][1] - points[1][1]) < 0.02  # from 4 to 8 bits: twice the size, nothing gained
