"""python -m minquant.bench networks: whole networks through one `Program.run` call, beside the engines people ship.

The networks are fresh ones, quantized by min-max and calibrated on noise; their batch norms are drawn at random, to
differ from channel to channel as in a trained network. Ours takes uint8 pixels and gives float64 logits; the others
take normalised float32, with their batch norms folded. onnxruntime (with OpenVINO), LiteRT and PyTorch take part where
they are installed, in float32 and in int8; their logits are compared with those of our float network first.
"""

import importlib
import json
import platform

import numpy as np

from .. import kernels, models
from ..deploy import lower
from ..nn import BatchNorm
from ..quantize import calibrate, quantize
from ..summary import table
from .folding import folded
from .timing import interleaved, summary

SHAPES = {"lenet5": (28, 28, 1), "resnet18": (224, 224, 3)}  # the others: 32 x 32 x 3
CLASSES = {"resnet18": 1000}  # the others: 10
CALIBRATION = 8  # images
PEERS = ("peer_onnx_networks", "peer_litert_networks", "peer_torch_networks")
MODULES = {"litert": "ai_edge_litert"}  # the others are imported by the name they have in the table
TOLERANCES = {"float32": 1e-3, "int8": 0.2}  # of a peer's logits, in parts of the largest
DEFAULT = "lenet5,resnet20,vgg_small,mobilenet_tiny,resnet18"


def add_arguments(parser):
    """The flags of `bench networks`."""
    parser.add_argument("--networks", default=DEFAULT, metavar="A,B", help="(default: %(default)s)")
    parser.add_argument("--bits", default="8,4,2", metavar="A,B", help="of weights and activations (default: 8,4,2)")
    parser.add_argument("--batches", default="1,64", metavar="A,B", help="images per call (default: 1,64)")
    parser.add_argument("--num-threads", default="1,2", metavar="A,B",
                        help="threads of every contestant (default: 1,2); --threads N is the same for one number")
    parser.add_argument("--repeats", type=int, default=5, metavar="N", help="turns of 0.1 s (default: 5)")
    parser.add_argument("--no-peers", action="store_true", help="leave onnxruntime, OpenVINO, LiteRT and PyTorch out")


def run(arguments):
    """Measure and print; return the exit status."""
    threads = [arguments.threads] if arguments.threads else numbers("--num-threads", arguments.num_threads)
    unknown = [name for name in arguments.networks.split(",") if name not in models.MODELS]
    if unknown:
        raise ValueError(f"--networks {','.join(unknown)}: known are {', '.join(models.MODELS)}")
    rows = []
    for network in arguments.networks.split(","):
        case = Case(network, numbers("--bits", arguments.bits), arguments.no_peers)
        for batch in numbers("--batches", arguments.batches):
            for count in threads:
                times = summary(interleaved(case.contestants(batch, count), arguments.repeats))
                rows += compared(network, batch, count, times)
    facts = {"machine": f"{platform.system()} {platform.machine()}", "cpu": kernels.cpu_features(),
             "isa": kernels.isa(), "peers": versions(rows), "rows": rows}
    print(json.dumps(facts, indent=1) if arguments.json else show(facts))
    return 0


def numbers(flag, text):
    """The positive integers of A,B."""
    parts = text.split(",")
    if not all(part.isdigit() and int(part) for part in parts):
        raise ValueError(f"{flag} {text}: give positive integers with commas between them")
    return [int(part) for part in parts]


class Case:
    """One network at several bits, and its float network for the peers."""

    def __init__(self, network, widths, without_peers):
        rng = np.random.default_rng(0)
        self.shape = SHAPES.get(network, (32, 32, 3))
        self.images = rng.integers(0, 256, (64, *self.shape)).astype(np.uint8)
        self.programs = {f"minquant {bits}-bit": self.program(network, bits) for bits in widths}
        self.peers = [] if without_peers else installed()
        self.model = folded(self.build(network, np.random.default_rng(0)))

    def build(self, network, rng):
        model = models.build(network, self.shape, CLASSES.get(network, 10), rng)
        for _, layer in model.named_layers():
            if isinstance(layer, BatchNorm):
                for array, low, high in ((layer.params["gamma"], 0.5, 1.5), (layer.params["beta"], -0.5, 0.5),
                                         (layer.state["mean"], -0.5, 0.5), (layer.state["var"], 0.5, 2)):
                    array[...] = rng.uniform(low, high, array.shape)
        return model

    def program(self, network, bits):
        rng = np.random.default_rng(0)
        model = quantize(self.build(network, rng), "minmax", bits, bits, rng=rng)
        calibrate(model, normalise(self.images[:CALIBRATION]), rng)
        model.method.finish(model)
        return lower(model, self.shape, normalise)

    def contestants(self, batch, threads):
        """{name: function} of one call each."""
        images = np.resize(self.images, (batch, *self.shape))
        x, others = normalise(images), {}
        for peer in self.peers:
            others.update(peer.contestants(self.model, x, threads))
        check(others, self.model.forward(x[:CALIBRATION])[0] if others else None)
        return {**{name: lambda p=program: p.run(images, threads) for name, program in self.programs.items()}, **others}


def installed():
    """The modules of the peers whose packages are there."""
    found = []
    for peer in PEERS:
        try:
            found.append(importlib.import_module(f".{peer}", __package__))
        except ImportError:
            continue
    return found


def check(calls, expected):
    """Raise ValueError where the first logits of a peer are not those expected: it would be another network."""
    for name, call in calls.items():
        error = np.abs(np.asarray(call())[:len(expected)] - expected).max() / np.abs(expected).max()
        if not error <= TOLERANCES[name.split()[-1]]:
            raise ValueError(f"the logits of {name} are off by {error:.2g} of the largest: the networks differ")


def versions(rows):
    """{engine: version} of the peers in the rows."""
    engines = dict.fromkeys(row["name"].split()[0] for row in rows)
    return {name: importlib.import_module(MODULES.get(name, name)).__version__.split("-")[0]  # OpenVINO adds its commit
            for name in engines if name != "minquant"}


def normalise(images):
    """Pixels to [-1, 1], float32."""
    return images.astype(np.float32) / 127.5 - 1


def compared(network, batch, threads, times):
    """A row per contestant: median, images per second, and how often the best int8 and float32 peer are slower."""
    best = {width: min((t["median"] for name, t in times.items() if name.endswith(width)), default=None)
            for width in ("int8", "float32")}
    return [{"network": network, "batch": batch, "threads": threads, "name": name, "ms": time["median"],
             "fastest_ms": time["fastest"], "images_per_s": 1e3 * batch / time["median"],
             "over_int8": best["int8"] and best["int8"] / time["median"],
             "over_float32": best["float32"] and best["float32"] / time["median"]} for name, time in times.items()]


def show(facts):
    """The table."""
    peers = ", ".join(f"{name} {version}" for name, version in facts["peers"].items())
    lines = [f"{facts['machine']}, {facts['isa']}, {' '.join(facts['cpu'])}; medians, in turns; "
             "x: times the best peer's median over ours", f"peers: {peers or 'none'}"]
    rows = [[r["network"], r["batch"], r["threads"], r["name"], f"{r['ms']:.4f}", f"{r['images_per_s']:,.0f}",
             *(f"{r[key]:.2f}" if r[key] else "" for key in ("over_int8", "over_float32"))] for r in facts["rows"]]
    header = ["network", "batch", "threads", "engine", "ms", "images/s", "x int8", "x float32"]
    return "\n".join([*lines, table(header, rows)])
