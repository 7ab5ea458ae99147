"""python -m minquant.bench kernels: integer kernels by shape, width and instruction set, beside their peers.

A product is one with requantization to 8-bit codes, called from Python. Compared are NumPy's float32 matmul
(of the im2col matrix, for a convolution), weight-only products and convolutions with a float32 codebook, and, where
installed, onnxruntime, OpenVINO, LiteRT and PyTorch, which use every instruction set they know (AMX among them). All
take turns in one run, so that drift of the machine cancels. The machine's limits are measured in registers and by
reading memory; on ARM there is no loop for them.
"""

import importlib
import json
import platform
from functools import partial

import numpy as np

from .. import intchecks, kernels
from ..isa import compiled
from ..runs import replacing
from ..summary import table
from . import roofline
from .timing import interleaved, seconds, summary

PRODUCTS = "1x512x512,1x4096x4096,64x576x64,256x1152x128,1024x576x64"
# height = width, input channels, output channels, stride: the 3 x 3 convolutions of ResNet-20 and VGG-7
CONVOLUTIONS = ("32x3x16x1,32x16x16x1,32x16x32x2,16x32x32x1,16x32x64x2,8x64x64x1,"
                "32x3x64x1,32x64x64x1,16x64x128x1,16x128x128x1,8x128x256x1,8x256x256x1")


REPEATED = 100  # calls of a C function without Python between them
PEERS = ("peer_onnxruntime", "peer_openvino", "peer_litert", "peer_torch_int")


def add_arguments(parser):
    """The flags of `bench kernels`."""
    parser.add_argument("--products", default=PRODUCTS, metavar="MxKxN,..",
                        help="matrix products (default: %(default)s)")
    parser.add_argument("--convolutions", default=CONVOLUTIONS, metavar="HxCxOxS,..",
                        help="3 x 3 convolutions of H x H x C, stride S (default: ResNet-20 and VGG-7)")
    parser.add_argument("--bits", default="8,4,2", metavar="A,B", help="of weights (default: %(default)s)")
    parser.add_argument("--activation-bits", type=int, default=8, metavar="N",
                        help="of activations; kernels for AVX2 and the look-up gain by few (default: %(default)s)")
    parser.add_argument("--isa", default="", metavar="A,B",
                        help="instruction sets, or all (default: the one in use)")
    parser.add_argument("--repeats", type=int, default=5, metavar="N", help="turns of 0.1 s (default: 5)")
    parser.add_argument("--no-loops", action="store_true",
                        help="leave out depthwise convolution, pooling and addition")
    parser.add_argument("--no-peers", action="store_true", help="leave other libraries out")
    parser.add_argument("--plot", metavar="FILE.png", help="draw the products under the limits of this machine")


def run(arguments):
    """Measure and print; return the exit status."""
    if arguments.plot and not arguments.plot.endswith(".png"):
        raise ValueError(f"--plot {arguments.plot!r} is not the name of a .png file")
    threads = arguments.threads or kernels.info()["threads"]
    isas = kernels.info()["isa"]["available"] if arguments.isa == "all" else arguments.isa.split(",")
    isas = [isa or kernels.isa() for isa in isas]
    widths = [int(bits) for bits in arguments.bits.split(",")]
    rng = np.random.default_rng(0)
    intchecks.check_bits(arguments.activation_bits, "--activation-bits")
    top = (1 << arguments.activation_bits) - 1
    cases = [product(text, rng, top) for text in filter(None, arguments.products.split(","))]
    cases += [convolution(text, rng, top) for text in filter(None, arguments.convolutions.split(","))]
    rows = []
    for case in cases:
        contestants = {**ours(case, isas, widths, arguments.activation_bits, threads),
                       **peers(case, threads, arguments.no_peers)}
        calls = {name: each["run"] for name, each in contestants.items()}
        times = summary(interleaved(calls, arguments.repeats))
        rows += [row(case, name, contestants, times) for name in contestants]
    loops = [] if arguments.no_loops else loop_rows(arguments.repeats, threads, rng)
    overheads = overhead_rows(arguments.repeats, rng)
    limits = roofline.limits(isas)
    for each in rows:
        peak = limits.get("products", {}).get(each["isa"] or isas[0])
        each["share_of_peak"] = each["gmacs"] / (peak * threads) if peak else None
    facts = {"machine": f"{platform.system()} {platform.machine()}", "cpu": kernels.cpu_features(),
             "threads": threads, "isa": kernels.info()["isa"], "activation_bits": arguments.activation_bits,
             "limits": limits,
             "rows": rows, "loops": loops, "overheads": overheads}
    if arguments.plot:
        with replacing(arguments.plot) as path:
            roofline.plot(facts, path)
    print(json.dumps(facts, indent=1) if arguments.json else show(facts))
    return 0


def numbers(text, count):
    """The `count` positive integers of AxBxC."""
    parts = text.split("x")
    if len(parts) != count or not all(part.isdigit() and int(part) for part in parts):
        raise ValueError(f"{text!r} is not {count} positive integers with x between them")
    return [int(part) for part in parts]


def product(text, rng, top):
    """A matrix product M x K x N of codes up to `top`."""
    m, k, n = numbers(text, 3)
    a = rng.integers(0, top + 1, (m, k)).astype(np.uint8)
    return {"what": "matmul", "shape": text, "x": a, "moved": a.size + m * n, "w_shape": (k, n),
            "products": m * k * n, "rows": a,
            "call": lambda w, q, threads: kernels.matmul(a, w, 0, q, threads),
            "floats": kernels.matmul_codebook}


def convolution(text, rng, top):
    """A 3 x 3 convolution with padding 1 of codes up to `top`."""
    h, c, o, stride = numbers(text, 4)
    x = rng.integers(0, top + 1, (1, h, h, c)).astype(np.uint8)
    out = (h - 1) // stride + 1
    return {"what": "conv 3x3", "shape": text, "x": x, "moved": x.size + out * out * o, "w_shape": (3, 3, c, o),
            "products": out * out * 9 * c * o, "rows": np.zeros((out * out, 9 * c), np.uint8),
            "stride": stride,
            "call": lambda w, q, threads: kernels.conv2d(x, w, stride, 1, 0, q, threads),
            "floats": lambda x, w, threads: kernels.conv2d_codebook(x, w, stride, 1, threads)}


def ours(case, isas, widths, activation_bits, threads):
    """{name: contestant} of our kernels; uniform grids take the path of codebooks, at the same cost."""
    rng, found = np.random.default_rng(1), {}
    channels = case["w_shape"][-1]
    q = kernels.requantization(np.full(channels, 2.0**-12), np.full(channels, 128.0), 8)
    for isa in isas:
        for bits in widths:
            codes = rng.integers(0, 1 << bits, case["w_shape"]).astype(np.uint8)
            levels = np.arange(1 << bits) - (1 << bits - 1)
            w = kernels.pack_weights(codes, levels, bits, activation_bits=activation_bits, isa=isa)
            found[f"{isa} {bits}-bit"] = {
                "run": lambda w=w: case["call"](w, q, threads), "bytes": w.nbytes, "isa": isa, "bits": bits}
            found.update(lookups(case, isa, bits, activation_bits, codes, levels))
    return found


def peers(case, threads, without):
    """{name: contestant} of the others."""
    rows, n = case["rows"].astype(np.float32), case["w_shape"][-1]
    w = np.random.default_rng(2).standard_normal((rows.shape[1], n), dtype=np.float32)
    found = {"numpy float32": {"run": lambda: rows @ w, "bytes": w.nbytes}}
    found.update(weight_only(case, threads))
    for peer in () if without else PEERS:
        try:
            module = importlib.import_module(f".{peer}", __package__)
        except ImportError:
            continue
        found.update(module.contestants(case, threads))
    return found


def weight_only(case, threads):
    """{name: contestant} of float32 activations with 4- and 2-bit codes into a float32 codebook."""
    rng, found = np.random.default_rng(5), {}
    x = case["x"].astype(np.float32)
    for bits in (4, 2):
        codes = rng.integers(0, 1 << bits, case["w_shape"]).astype(np.uint8)
        w = kernels.pack_codebook(codes, rng.standard_normal(1 << bits), bits)
        found[f"float32 x {bits}-bit codebook"] = {
            "run": lambda w=w: case["floats"](x, w, threads), "bytes": w.nbytes}
    return found


def lookups(case, isa, bits, activation_bits, w_codes, levels):
    """{name: contestant} of the look-up kernel, where the instruction set has one and takes the weights."""
    if case["what"] != "matmul" or len(case["x"]) != 1:
        return {}
    try:
        w = kernels.pack_lookup(w_codes, levels, bits, activation_bits, isa=isa)
    except ValueError:
        return {}
    return {f"{isa} {bits}-bit look-up": {"run": lambda: kernels.matvec_lookup(case["x"][0], w), "bytes": w.nbytes,
                                          "isa": isa, "bits": bits}}


def row(case, name, contestants, times):
    """What is known of one contestant in one case."""
    each, median = contestants[name], times[name]["median"]
    eight = times.get(f"{each.get('isa')} 8-bit")
    moved = each["bytes"] + case["moved"]
    return {"what": case["what"], "shape": case["shape"], "name": name, "isa": each.get("isa"),
            "bits": each.get("bits"), "microseconds": 1e3 * median, "fastest": 1e3 * times[name]["fastest"],
            "gmacs": case["products"] / median / 1e6, "weight_bytes": each["bytes"], "bytes_moved": moved,
            "macs_per_byte": case["products"] / moved, "over_float32": times["numpy float32"]["median"] / median,
            "over_own_int8": eight["median"] / median if eight else None}


def loop_rows(repeats, threads, rng):
    """Operations that bytes bound: time and bytes read and written per second."""
    x = rng.integers(0, 256, (1, 56, 56, 64)).astype(np.uint8)
    w = kernels.pack_weights(rng.integers(0, 16, (3, 3, 1, 64)).astype(np.uint8), np.arange(16) - 8, 4, 64)
    q, floats = kernels.requantization(np.full(64, 0.01), np.zeros(64), 8), x.astype(np.float32)
    scale, offset = np.full(64, 0.5), np.zeros(64)
    calls = {"depthwise 3x3": (lambda: kernels.conv2d(x, w, 1, 1, 0, q, threads), 2),
             "maximum 2x2": (lambda: kernels.max_pool2d(x, 2, num_threads=threads), 1.25),
             "average 2x2": (lambda: kernels.average_pool2d(x, 2, None, 0, q, threads), 1.25),
             "add": (lambda: kernels.add(x, x, scale, scale, offset, 8, threads), 3),
             "quantize": (lambda: kernels.quantize(floats, q, threads), 5)}
    times = summary(interleaved({name: call for name, (call, _) in calls.items()}, repeats))
    return [{"what": name, "shape": "56x56x64", "microseconds": 1e3 * times[name]["median"],
             "gigabytes_per_second": factor * x.size / times[name]["median"] / 1e6}
            for name, (_, factor) in calls.items()]


def small_calls(module, rng):
    """(call from Python, the same as REPEATED calls of the C function, name) of products and a convolution."""
    levels, found = np.arange(256) - 128, []
    for k in (16, 512):
        a, codes = (rng.integers(0, 256, shape).astype(np.uint8) for shape in ((1, k), (k, k)))
        w, q = kernels.pack_weights(codes, levels, 8), kernels.requantization(np.full(k, 0.01), np.zeros(k), 8)
        found.append((partial(kernels.matmul, a, w, 0, q, 1),
                      partial(module.matmul, a, w, np.empty((1, k), np.uint8), 0, False, q, 1, REPEATED),
                      f"matmul 1x{k}x{k}"))
    x, codes = (rng.integers(0, 256, shape).astype(np.uint8) for shape in ((1, 4, 4, 16), (1, 1, 16, 16)))
    w, q = kernels.pack_weights(codes, levels, 8), kernels.requantization(np.full(16, 0.01), np.zeros(16), 8)
    found.append((partial(kernels.conv2d, x, w, 1, 0, 0, q, 1),
                  partial(module.conv2d, x, w, np.empty_like(x), (1, 1), (0, 0), 0, False, q, 1, REPEATED),
                  "conv2d 1x1 4x4x16x16"))
    return found


def overhead_rows(repeats, rng):
    """What a call from Python takes beyond its C function, which the wrapper can repeat.

    The fastest of many short turns counts: a busy machine takes milliseconds away at a time.
    """
    module, found = compiled(), []
    if module is None:
        return found
    for call, c, name in small_calls(module, rng):
        turns = [(seconds(call, 30), seconds(c, 1) / REPEATED) for _ in range(100 * repeats)]
        whole, inner = (1e6 * min(times) for times in zip(*turns))
        found.append({"what": name, "call_microseconds": whole, "c_microseconds": inner,
                      "overhead_microseconds": whole - inner})
    return found


def show(facts):
    """The tables."""
    lines = [f"{facts['machine']}, {facts['threads']} thread(s), {' '.join(facts['cpu'])}; "
             f"{facts['activation_bits']}-bit activations; medians, in turns"]
    rows = [[f"{r['what']} {r['shape']}", r["name"], f"{r['microseconds']:.1f}", f"{r['fastest']:.1f}",
             f"{r['gmacs']:.1f}", f"{r['bytes_moved'] / 1024:.0f}", f"{r['over_float32']:.2f}",
             f"{r['over_own_int8']:.2f}" if r["over_own_int8"] else "",
             f"{r['share_of_peak']:.0%}" if r["share_of_peak"] and r["isa"] else ""] for r in facts["rows"]]
    header = ["shape", "kernel", "us", "fastest", "GMAC/s", "KiB moved", "x float32", "x own int8", "of peak"]
    lines.append(table(header, rows))
    if facts["limits"]:
        roof = facts["limits"]
        lines += ["", "limits of one thread: " + ", ".join(
            [f"{isa} {rate:.0f} GMAC/s" for isa, rate in roof["products"].items()]
            + [f"{level} {rate:.0f} GB/s" for level, rate in roof["reads"].items()])]
    if facts["loops"]:
        rows = [[r["what"], r["shape"], f"{r['microseconds']:.1f}", f"{r['gigabytes_per_second']:.1f}"]
                for r in facts["loops"]]
        lines += ["", table(["operation", "shape", "us", "GB/s"], rows)]
    if facts["overheads"]:
        rows = [[name, *(f"{time:.2f}" for time in times)] for name, *times in map(dict.values, facts["overheads"])]
        lines += ["", table(["small calls, fastest", "us", "C alone", "overhead"], rows)]
    return "\n".join(lines)
