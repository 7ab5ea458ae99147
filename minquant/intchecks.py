"""Checks of the arguments of integer operations: every error says the value, the limit and what to do."""

import numpy as np

MAX_K = 65793


def geometry(x_shape, w_shape, groups, stride, padding):
    """((stride_h, stride_w), ((top, bottom), (left, right)), (N, OH, OW)) of a convolution, checked."""
    if len(w_shape) < 3:
        raise ValueError(f"weights of shape {tuple(w_shape)}; a convolution takes HWIO")
    sh, sw = stride = pair(stride, "stride")
    (top, bottom), (left, right) = pads = paddings(padding)
    n, h, w, c = x_shape
    kh, kw, each = w_shape[:3]
    if min(sh, sw, kh, kw) < 1 or min(top, bottom, left, right) < 0:
        raise ValueError(f"stride={stride}, padding={pads}, kernel={(kh, kw)}; strides and kernels are at "
                         "least 1, padding at least 0")
    if c != each * groups:
        raise ValueError(f"x has {c} channels, weights of shape {w_shape} in {groups} groups take "
                         f"{each * groups}")
    reach_h, reach_w = h + top + bottom - kh, w + left + right - kw
    if reach_h < 0 or reach_w < 0:
        raise ValueError(f"a kernel of {(kh, kw)} does not fit into {(h, w)} with padding {pads}")
    return stride, pads, (n, reach_h // sh + 1, reach_w // sw + 1)


def paddings(padding):
    """((top, bottom), (left, right)) of one number, of (height, width), or of such pairs."""
    if isinstance(padding, int):
        return ((padding, padding), (padding, padding))
    vertical, horizontal = two(padding, "padding")
    return pair(vertical, "padding"), pair(horizontal, "padding")


def pair(value, what):
    """Two integers of one or two."""
    if isinstance(value, int):
        return value, value
    return tuple(integer(each, what) for each in two(value, what))


def two(value, what):
    values = (value, value) if np.ndim(value) == 0 else tuple(value)
    if len(values) != 2:
        raise ValueError(f"{what}={value!r} is not one or two integers")
    return values


def integer(value, what):
    if value != int(value):
        raise ValueError(f"{what}={value!r} is not an integer")
    return int(value)


def check_bits(bits, name="bits"):
    if bits not in range(1, 9):
        raise ValueError(f"{name}={bits} is not in 1..8 (codes are stored in uint8); choose 1..8")


def check_channels(q, channels):
    if q.multiplier.size != channels:
        raise ValueError(f"requantization of {q.multiplier.size} channels for {channels}; give one for "
                         "each channel")


def checked_codes(codes, bits):
    """codes as a contiguous uint8 array below 2^bits."""
    check_bits(bits)
    codes = np.asarray(codes)
    if codes.dtype != np.uint8:
        raise ValueError(f"codes of type {codes.dtype}; give uint8")
    if codes.size and codes.max() >> bits:
        raise ValueError(f"code {codes.max()} does not fit into bits={bits}: the limit is {(1 << bits) - 1}")
    return np.ascontiguousarray(codes)


def checked_stream(stream, bits, shape):
    """stream as a contiguous array of as many bytes as codes of this shape take."""
    check_bits(bits)
    stream, count = np.ascontiguousarray(stream), int(np.prod(shape, dtype=np.int64))
    if stream.dtype != np.uint8 or stream.shape != ((count * bits + 7) // 8,):
        raise ValueError(f"a stream of {stream.shape} {stream.dtype} for codes of shape {tuple(shape)}; "
                         f"bits={bits} take {(count * bits + 7) // 8} bytes of uint8")
    return stream


def check_codes_in(a, zero_point, ndim):
    """Activations of the right type and number of axes, and a zero point of that type."""
    if a.dtype != np.uint8 and a.dtype != np.int8 or a.ndim != ndim:
        raise ValueError(f"activations of type {a.dtype}, shape {a.shape}; give uint8 or int8 with "
                         f"{ndim} axes")
    limits = np.iinfo(a.dtype)
    if not limits.min <= zero_point <= limits.max:
        raise ValueError(f"zero_point={zero_point} is not a code of {a.dtype}: {limits.min}..{limits.max}")


def check_float_rows(a, w_shape):
    """Float activations (M, K) for weights (K, N)."""
    if a.dtype != np.float32 or a.ndim != 2:
        raise ValueError(f"activations of type {a.dtype}, shape {a.shape}; give float32 (M, K)")
    if len(w_shape) != 2 or a.shape[1] != w_shape[0]:
        raise ValueError(f"a of shape {a.shape} times weights of shape {w_shape}; K must be the same")


def check_float_images(x):
    """Float activations NHWC."""
    if x.dtype != np.float32 or x.ndim != 4:
        raise ValueError(f"activations of type {x.dtype}, shape {x.shape}; give float32 NHWC")


def check_groups(codes, groups):
    """Codes of a matrix, or of a convolution in so many groups."""
    if codes.ndim not in (2, 4) or (codes.ndim == 2 and groups != 1):
        raise ValueError(f"codes of shape {codes.shape} in {groups} groups; give (K, N), or HWIO with groups")
    if groups < 1 or codes.shape[-1] % groups:
        raise ValueError(f"{codes.shape[-1]} output channels in {groups} groups; groups must divide them")


def check_matrix(weights):
    if len(weights.shape) != 2:
        raise ValueError(f"weights of shape {weights.shape}; give (K, N)")


def check_unsigned(a):
    if a.dtype != np.uint8:
        raise ValueError(f"activations of type {a.dtype}; give uint8")


def check_promise(a, zero_point, bits):
    """Activations of no more bits than the weights were packed for."""
    if bits == 8:
        return
    largest = max(int(a.max(initial=0)), zero_point)
    if a.dtype != np.uint8 or largest >> bits:
        raise ValueError(f"activations {a.dtype} as far as {largest} for weights packed with "
                         f"activation_bits={bits}; give uint8 codes up to {(1 << bits) - 1}, or pack with more bits")


def pool_geometry(x_shape, size, stride, padding):
    """(size, stride, pads), each a pair; every window holds a pixel of the image."""
    size = pair(size, "size")
    stride, pads, _ = geometry(x_shape, (*size, 1), x_shape[3], size if stride is None else stride, padding)
    if max(pads[0]) >= size[0] or max(pads[1]) >= size[1]:
        raise ValueError(f"padding={pads} with windows of {size}: a window would be empty; pad by less than "
                         "the size")
    return size, stride, pads


def addition_factors(a, b, multiplier_a, multiplier_b, offset, bits):
    """float32 (3, C) of the factors of `add`, and its arguments checked."""
    check_bits(bits)
    for x in (a, b):
        if x.dtype != np.uint8 and x.dtype != np.int8 or not x.ndim or x.shape != a.shape:
            raise ValueError(f"a {a.dtype} {a.shape} plus b {b.dtype} {b.shape}; give uint8 or int8 of "
                             "one shape")
    factors = np.empty((3, a.shape[-1]), np.float32)
    for row, values in zip(factors, (multiplier_a, multiplier_b, offset)):
        if np.shape(values) not in ((), (a.shape[-1],)):
            raise ValueError(f"a factor of shape {np.shape(values)} for {a.shape[-1]} channels; give one "
                             "number or one per channel")
        row[:] = values
    if not np.isfinite(factors).all():
        raise ValueError("a factor is not finite in float32; choose a smaller one")
    return factors


def check_floats(x, q):
    """float32 (..., C) for a requantization of C channels without thresholds."""
    if x.dtype != np.float32 or not x.ndim:
        raise ValueError(f"x of type {x.dtype}, shape {x.shape}; give float32 with channels last")
    check_channels(q, x.shape[-1])
    if q.direction is not None:
        raise ValueError("thresholds count int32 sums, and x is float32; give multiplier and offset alone")
