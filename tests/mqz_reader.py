"""A second reader of `.mqz` files, written from docs/integers.md alone: it shares no line with minquant.deploy."""

import json
import struct
import zlib

import numpy as np

CHAIN = {"multiply": lambda a, b: a * b, "divide": lambda a, b: a / b, "add": lambda a, b: a + b}


def read(content):
    """The header of a file's bytes, each operation with its arrays in the place of their descriptions."""
    assert content[:8] == bytes.fromhex("894D515A0D0A1A0A")
    version, checksum, h, d = struct.unpack("<IIQQ", content[8:32])
    assert version == 1 and checksum == zlib.crc32(content[:12] + content[16:]) and len(content) == 32 + h + d
    header, place = json.loads(content[32:32 + h]), 32 + h
    for op in header["ops"]:
        for name, (kind, shape) in op["arrays"].items():
            count = int(np.prod(shape))
            op["arrays"][name] = np.frombuffer(content, kind, count, place).reshape(shape)
            size = count * int(kind[2])
            assert not any(content[place + size:place + size + -size % 8])
            place += size + -size % 8
    assert place == len(content) and h % 8 == d % 8 == 0
    return header


def run(header, images):
    """[what every tensor holds] for uint8 images (N, H, W, C); the last are the logits."""
    tensors = [images]
    for op in header["ops"]:
        operands = [tensors[i] for i in op["inputs"]]
        tensors.append(globals()[op["op"]](op, op["arrays"], *operands))
    return tensors


def weights(op, arrays):
    """Levels of the packed weights, bit by bit."""
    count = int(np.prod(op["shape"]))
    assert len(arrays["stream"]) == -(-op["bits"] * count // 8)
    bits = [int(arrays["stream"][k // 8]) >> k % 8 & 1 for k in range(count * op["bits"])]
    codes = [sum(bits[i * op["bits"] + j] << j for j in range(op["bits"])) for i in range(count)]
    return arrays["levels"].astype(np.int64)[codes].reshape(op["shape"])


def windows(x, height, width, stride):
    """(N, OH, OW, C, height, width)."""
    return np.lib.stride_tricks.sliding_window_view(x, (height, width), axis=(1, 2))[:, ::stride, ::stride]


def QuantizeInput(op, arrays, x):
    return np.stack([arrays["table"][c][x[..., c]] for c in range(x.shape[-1])], axis=-1)


def Convolution(op, arrays, x):
    w, p, groups = weights(op, arrays), op["padding"], op["groups"]
    levels = np.pad(arrays["input_levels"].astype(np.int64)[x], ((0, 0), (p, p), (p, p), (0, 0)))
    seen, each = windows(levels, *w.shape[:2], op["stride"]), w.shape[3] // groups
    return np.concatenate([np.einsum("nyxcij,ijco->nyxo", seen[:, :, :, g * w.shape[2]:(g + 1) * w.shape[2]],
                                     w[..., g * each:(g + 1) * each]) for g in range(groups)], axis=-1)


def Linear(op, arrays, x):
    return arrays["input_levels"].astype(np.int64)[x] @ weights(op, arrays)


def SumPool(op, arrays, x):
    levels = arrays["input_levels"].astype(np.int64)[x]
    return windows(levels, *op["window"], op["stride"]).sum((-2, -1)) if op["stride"] else levels.sum((1, 2))


def MaxPool(op, arrays, x):
    return windows(x, op["size"], op["size"], op["stride"]).max((-2, -1))


def PadShortcut(op, arrays, x):
    kept = x[:, ::op["stride"], ::op["stride"]]
    more = np.full((*kept.shape[:3], op["outputs"] - x.shape[3]), op["zero"], x.dtype)
    return np.concatenate([kept, more], axis=3)


def Flatten(op, arrays, x):
    return x.reshape(len(x), -1)


def Concat(op, arrays, *operands):
    tables = arrays["tables"]
    assert tables.shape in ((0, 0), (len(operands), 256))
    return np.concatenate([tables[i][x] if len(tables) else x for i, x in enumerate(operands)], axis=-1)


def cheap(op, arrays, x, more=None):
    y = x.astype(np.float32) * arrays["multiplier"]
    y = y + arrays["offset"]
    y = y if more is None else y + more
    assert y.dtype == np.float32
    if len(arrays["edges"]):
        return (arrays["edges"] <= y[..., None]).sum(-1).astype(np.uint8)
    return np.clip(np.rint(y), 0, op["top"]).astype(np.uint8)


def steps(op, arrays, x):
    value = x.astype(np.float64)
    for step, operand in zip(op["steps"], arrays["values"]):
        value = CHAIN[step](value, operand)
    return value


def Requantize(op, arrays, x):
    codes, ladders = cheap(op, arrays, x), iter(arrays["thresholds"].astype(np.int64))
    for channel, direction in enumerate(arrays["direction"]):
        if direction:
            place = (..., channel) if len(arrays["direction"]) > 1 else ...
            acc = x[place][..., None]
            row = next(ladders)
            codes[place] = ((acc >= row) if direction == 1 else (acc <= row)).sum(-1)
    return codes


def AddRequantize(op, arrays, x, k):
    codes, wide = cheap(op, arrays, x, arrays["shortcut"][k]), arrays["wide"] == 1
    value = steps(op, arrays, x[..., wide]) + arrays["wide_shortcut"][k[..., wide]]
    codes[..., wide] = (arrays["boundaries"] <= value[..., None]).sum(-1)
    return codes


def Logits(op, arrays, x):
    return steps(op, arrays, x)
