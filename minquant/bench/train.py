"""python -m minquant.bench train: one step (forward, backward, SGD with momentum), float and quantized.

PyTorch runs in the same process with as many threads. Both then share one OpenMP library, whose idle threads
sleep; OMP_WAIT_POLICY=active in the environment lets them spin, which pays only where no other process runs.
"""

import copy
import json
import platform

import numpy as np

from .. import kernels, models, optim, training
from ..nn import ops, skip_input_gradient
from ..quantize import calibrate, quantize
from ..quantizers import METHODS
from ..summary import table
from ..tasks import CLASSIFY, TASKS
from .probe import kept_buffers, peak_bytes, watched
from .timing import interleaved, summary

INPUTS = {"lenet5": (28, 28, 1), "vgg_detector": (96, 96, 3)}  # every other network takes 32 x 32 x 3
LR = 0.01
PROFILED_STEPS = 3


def add_arguments(parser):
    """The flags of `bench train`."""
    def number(flag, default, purpose):
        parser.add_argument(flag, type=int, default=default, metavar="N",
                            help=f"{purpose} (default: {default})")

    parser.add_argument("--model", default="resnet20,vgg_small,lenet5", metavar="A,B",
                        help="networks (default: %(default)s)")
    parser.add_argument("--method", default="float", metavar="A,B",
                        help="methods to quantize with, or all; float is always measured (default: float)")
    number("--batch-size", 128, "images of a step")
    number("--bits", 4, "bits of weights and activations of the methods")
    number("--repeats", 7, "turns of each, a turn being 0.1 s or one step")
    number("--layers", 12, "layers listed, slowest first")
    parser.add_argument("--no-torch", action="store_true", help="leave PyTorch out though it is installed")


def run(arguments):
    """Measure and print; return the exit status."""
    methods = contestants(arguments.method, arguments.bits)
    facts = {"machine": f"{platform.system()} {platform.machine()}", "threads": ops.get_threads(),
             "batch_size": arguments.batch_size, "compiled": ops.compiled(), "cpu": kernels.cpu_features()}
    reports = [measure(name, methods, arguments) for name in arguments.model.split(",")]
    if arguments.json:
        print(json.dumps({**facts, "models": reports}, indent=1))
        return 0
    print(f"one training step of {facts['batch_size']} images, {facts['threads']} thread(s), "
          f"{'compiled operations' if facts['compiled'] else 'pure NumPy'}; "
          f"medians of {arguments.repeats} turns each, in one run")
    for report in reports:
        print("\n" + show(report, arguments.layers))
    return 0


def measure(name, methods, arguments):
    """The report of one network: times of all contestants, profile and memory of our steps."""
    rng = np.random.default_rng(0)
    shape = INPUTS.get(name, (32, 32, 3))
    model = models.build(name, shape, 10, rng)
    skip_input_gradient(model)
    images = rng.standard_normal((arguments.batch_size, *shape), dtype=np.float32)
    task = next(task for task in TASKS.values() if name in task.models)
    labels = targets(task, arguments.batch_size, rng)
    networks = {label: quantized(model, *how, images, rng) for label, how in methods.items()}
    networks = {"float": model, **networks}
    torch = {} if arguments.no_torch or task is not CLASSIFY else torch_steps(model, images, labels)
    ours = {key: our_step(network, images, labels, task) for key, network in networks.items()}
    times = summary(interleaved({**ours, **torch}, arguments.repeats))
    profiles = {key: profile(networks[key], step) for key, step in ours.items()}
    return {"model": name, "input": shape, "milliseconds": times, "profiles": profiles,
            "ratios": ratios(times, methods, {key: found["peak_bytes"] for key, found in profiles.items()})}


def contestants(names, bits):
    """{label: (method, bits, act_bits)}. Under "all" a method that does not take the bits gets the nearest it takes."""
    chosen = [name for name in names.split(",") if name not in ("all", "float")]
    found = {name: (name, bits, bits) for name in chosen}
    for name, method in METHODS.items() if "all" in names.split(",") else ():
        widths = [bits if bits in allowed else min(filter(None, allowed), key=lambda b: abs(b - bits))
                  for allowed in (method.weight_bits, method.act_bits)]
        label = name if widths == [bits, bits] else f"{name} {widths[0]}/{widths[1]}"
        found[label] = (name, *widths)
    return found


def quantized(model, method, bits, act_bits, images, rng):
    """A calibrated quantized copy."""
    copied = quantize(copy.deepcopy(model), method=method, bits=bits, act_bits=act_bits, rng=rng)
    calibrate(copied, images, rng)
    return copied


def targets(task, count, rng):
    """Labels of random images: a class each, or two objects each."""
    if task is CLASSIFY:
        return rng.integers(0, 10, count)
    corners = rng.integers(0, 40, (count, 2, 2))
    return np.concatenate([rng.integers(0, 10, (count, 2, 1)), corners, corners + 40, 0 * corners[..., :1]],
                          2).astype(np.float32)


def our_step(model, images, labels, task=CLASSIFY):
    """A function that trains one step from the middle of a training and returns the loss."""
    rng, optimizer = np.random.default_rng(1), optim.SGD(model.named_params(), momentum=0.9)
    return lambda: training.step(model, optimizer, images, labels, LR, rng, progress=0.5, task=task)[0]


def torch_steps(model, images, labels):
    """{name: step} for PyTorch in both memory layouts, {} where it is not installed.

    Raises ValueError where the translated network computes another loss: it would be another network.
    """
    try:
        import torch
    except ImportError:
        return {}
    from .peer_torch import step_function
    torch.set_num_threads(ops.get_threads())
    expected = our_step(copy.deepcopy(model), images, labels)()
    steps = {}
    for layout, last in (("contiguous", False), ("channels-last", True)):
        steps[f"torch {layout}"] = step_function(model, images, labels, LR, last)
        found = step_function(model, images, labels, LR, last)()
        if abs(found - expected) > 1e-3 * max(1, abs(expected)):
            raise ValueError(f"PyTorch's first loss is {found}, ours {expected}: the networks differ")
    return steps


def ratios(times, methods, peaks):
    """{what: ratio}: medians of float to PyTorch's faster layout, median and peak memory of each method to float."""
    middle = {name: entry["median"] for name, entry in times.items()}
    peers = [value for name, value in middle.items() if name.startswith("torch")]
    found = {"float / torch's best": middle["float"] / min(peers)} if peers else {}
    for method in methods:
        found[f"{method} / float"] = middle[method] / middle["float"]
        found[f"{method} / float, memory"] = peaks[method] / peaks["float"]
    return found


def profile(model, step):
    """Milliseconds per layer of an average step, its peak of memory, and what it keeps for backward."""
    peak = peak_bytes(step)
    with watched(model) as records:
        for _ in range(PROFILED_STEPS):
            step()
    layers = [{"name": r.name, "kind": r.kind, "forward": 1e3 * r.forward / PROFILED_STEPS,
               "backward": 1e3 * r.backward / PROFILED_STEPS} for r in records]
    kept = kept_buffers(records)
    largest = [dict(zip(("layer", "shape", "dtype", "bytes"), buffer)) for buffer in kept[:3]]
    return {"layers": layers, "peak_bytes": peak, "kept_bytes": sum(buffer[3] for buffer in kept),
            "largest_buffers": largest}


def show(report, most):
    """The tables of one network."""
    h, w, c = report["input"]
    rows = [[name, f"{t['median']:.1f}", f"{t['fastest']:.1f}"] for name, t in report["milliseconds"].items()]
    lines = [f"== {report['model']}, {h} x {w} x {c}", table(["step", "median ms", "fastest ms"], rows)]
    lines += [f"{what}: {ratio:.2f}" for what, ratio in report["ratios"].items()]
    for key, found in report["profiles"].items():
        lines += ["", f"where the {key} step goes (ms; not listed: loss, optimizer, residual sums, Python)"]
        lines += [layer_table(found["layers"], most), memory_lines(found)]
    return "\n".join(lines)


def layer_table(layers, most):
    """Sums per kind of layer, then the slowest layers."""
    kinds = {}
    for layer in layers:
        entry = kinds.setdefault(layer["kind"], [0.0, 0.0, 0])
        entry[0], entry[1], entry[2] = entry[0] + layer["forward"], entry[1] + layer["backward"], entry[2] + 1
    rows = [[f"all {count} {kind}", forward, backward] for kind, (forward, backward, count) in kinds.items()]
    rows.sort(key=lambda row: -row[1] - row[2])
    slowest = sorted(layers, key=lambda layer: -layer["forward"] - layer["backward"])[:most]
    rows += [[layer["name"], layer["forward"], layer["backward"]] for layer in slowest]
    return table(["layer", "forward", "backward", "both"],
                 [[name, f"{f:.2f}", f"{b:.2f}", f"{f + b:.2f}"] for name, f, b in rows])


def memory_lines(found):
    """Peak, what is kept for backward, the largest of it."""
    largest = [f"{b['layer']} {b['dtype']} {'x'.join(map(str, b['shape']))} = {b['bytes'] / 1e6:.1f} MB"
               for b in found["largest_buffers"]]
    peak, kept = found["peak_bytes"] / 1e6, found["kept_bytes"] / 1e6
    return ("memory (arrays, by tracemalloc; without the kernels' scratch):\n"
            f"  {peak:.1f} MB at most, {kept:.1f} MB kept for backward, the largest:\n  "
            + ",\n  ".join(largest))
