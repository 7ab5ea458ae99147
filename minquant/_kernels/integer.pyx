# cython: language_level=3, boundscheck=False, wraparound=False, embedsignature=True
"""Integer kernels on arrays: shapes, types and bounds are checked here, the C files of int.h compute.

Output arrays are passed in by the caller and wholly overwritten. `threads` never changes a result.
`minquant.kernels` is the public face of this module; `minquant.intops` says what every operation means.
"""
from math import gcd

from libc.stdint cimport int8_t, int16_t, int32_t, uint8_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy

MAX_K, BLOCK = INT_MAX_K, INT_BLOCK


def isas():
    """Instruction sets that this machine has and this build knows, best first."""
    names, index = [], 0
    while int_isa_at(index) != NULL:
        names.append(int_isa_name(int_isa_at(index)).decode())
        index += 1
    return names


def built():
    """Instruction sets that this build knows, best first."""
    names, index = [], 0
    while int_isa_built(index) != NULL:
        names.append(int_isa_built(index).decode())
        index += 1
    return names


def has_openmp():
    """Whether more than one thread has any effect."""
    return bool(int_has_openmp())


cdef const int_isa *isa_of(str name) except NULL:
    cdef const int_isa *found = int_isa_find(name.encode())
    if found == NULL:
        raise ValueError(f"instruction set {name!r} is not here; choose one of {isas()}")
    return found


cdef int checked(int failed) except -1:
    if failed:
        raise MemoryError("no memory for the scratch buffers of an integer kernel; use a smaller batch")


def pack_bits(const uint8_t[::1] codes, int bits, uint8_t[::1] stream):
    """Codes below 2^bits into a stream of ceil(bits * count / 8) bytes."""
    if not (stream.shape[0] == (codes.shape[0] * bits + 7) // 8):
        raise ValueError(f"a stream of {stream.shape[0]} bytes for {codes.shape[0]} codes of {bits} bits")
    if codes.shape[0]:
        int_pack_bits(&codes[0], codes.shape[0], bits, &stream[0])


def unpack_bits(const uint8_t[::1] stream, int bits, uint8_t[::1] codes):
    """As many codes as the array `codes` holds, from a stream of ceil(bits * count / 8) bytes."""
    if not (stream.shape[0] == (codes.shape[0] * bits + 7) // 8):
        raise ValueError(f"a stream of {stream.shape[0]} bytes for {codes.shape[0]} codes of {bits} bits")
    if codes.shape[0]:
        int_unpack_bits(&stream[0], codes.shape[0], bits, &codes[0])


cdef class Requantization:
    """Multiplier and offset (float32); for channels with direction +1 or -1 int32 thresholds (N, steps)."""
    cdef int_requantization q
    cdef void *memory
    cdef readonly int channels, period  # the factors repeat, so that vectors may run over several pixels

    def __cinit__(self, const float[::1] multiplier, const float[::1] offset, int top,
                  const int8_t[::1] direction=None, const int32_t[:, ::1] thresholds=None):
        cdef Py_ssize_t n = multiplier.shape[0], steps = 0, i, length
        cdef float *factors
        if not (offset.shape[0] == n and 0 < top <= 255):
            raise ValueError(f"{n} multipliers, {offset.shape[0]} offsets, top={top}; top is in 1..255")
        if direction is not None:
            if not (direction.shape[0] == n and thresholds is not None and thresholds.shape[0] == n):
                raise ValueError("direction without one row of thresholds per channel")
            steps = thresholds.shape[1]
        self.channels, self.period = n, n * INT_BLOCK // gcd(n, INT_BLOCK) if n else INT_BLOCK
        length = max((n // INT_MAX_COLUMNS + 1) * INT_MAX_COLUMNS, self.period)
        self.memory = calloc(length, 9 + 4 * steps)
        if self.memory == NULL:
            raise MemoryError(f"no memory for the requantization of {n} channels")
        factors = <float *>self.memory
        self.q.top, self.q.steps, self.q.multiplier, self.q.offset = top, steps, factors, factors + length
        for i in range(length if n else 0):
            factors[i], factors[length + i] = multiplier[i % n], offset[i % n]
        if n and direction is not None:
            self.q.thresholds = <int32_t *>(factors + 2 * length)
            self.q.direction = <int8_t *>(factors + (2 + steps) * length)
            memcpy(<void *>self.q.direction, &direction[0], n)
            if steps:
                memcpy(<void *>self.q.thresholds, &thresholds[0, 0], 4 * n * steps)

    def __dealloc__(self):
        free(self.memory)


cdef class Weights:
    """Codes (K, N), or HWIO with groups, and their int8 levels, laid out for one instruction set."""
    cdef int_weights **parts
    cdef readonly int groups, bits
    cdef readonly tuple shape
    cdef readonly str isa

    def __cinit__(self, const uint8_t[:, :, :, ::1] codes, const int8_t[::1] levels, int bits, tuple shape,
                  int groups, isa):
        cdef int_window s
        cdef int segments, length, each = codes.shape[3] // groups, g
        cdef const int_isa *chosen = isa_of(isa)
        cdef const uint8_t[:, :, :, ::1] part
        cdef const uint8_t *first = NULL
        if not (1 <= bits <= 8 and levels.shape[0] == 1 << bits):
            raise ValueError(f"{levels.shape[0]} levels for {bits} bits")
        if not (codes.shape[3] == each * groups):
            raise ValueError(f"{codes.shape[3]} output channels in {groups} groups")
        s.kernel_h, s.kernel_w, s.groups = codes.shape[0], codes.shape[1], groups
        s.channels = codes.shape[2] * groups
        if not (codes.shape[0] * codes.shape[1] * codes.shape[2] <= INT_MAX_K):
            raise ValueError(f"K={codes.shape[0] * codes.shape[1] * codes.shape[2]} is beyond {INT_MAX_K}")
        if not (groups == 1 or codes.shape[0] * codes.shape[1] <= INT_MAX_TAPS):
            raise ValueError(f"a kernel of more than {INT_MAX_TAPS} taps; use a smaller one")
        int_conv_segments(&s, &segments, &length)
        self.isa, self.groups, self.bits, self.shape = int_isa_name(chosen).decode(), groups, bits, shape
        self.parts = <int_weights **>calloc(groups, sizeof(int_weights *))
        if self.parts == NULL:
            raise MemoryError("no memory for packed weights")
        for g in range(groups):
            part = codes if groups == 1 else codes[:, :, :, g * each:(g + 1) * each].copy()
            first = NULL
            if segments and length and each:
                first = &part[0, 0, 0, 0]
            self.parts[g] = int_weights_new(chosen, first, segments, length, each, bits, &levels[0])
            if self.parts[g] == NULL:
                raise MemoryError("no memory for packed weights")

    def __dealloc__(self):
        if self.parts != NULL:
            for g in range(self.groups):
                int_weights_free(self.parts[g])
            free(self.parts)

    @property
    def nbytes(self):
        """Bytes of the compute layout."""
        return sum(int_weights_bytes(self.parts[g]) for g in range(self.groups))


cdef int_options options_of(int zero_point, bint is_signed, Requantization q, int threads,
                            int columns) except *:
    cdef int_options options
    if not (-128 <= zero_point <= 127 if is_signed else 0 <= zero_point <= 255):
        raise ValueError(f"zero_point={zero_point} is not a code of the activations' type; use one")
    if not (threads >= 1):
        raise ValueError(f"num_threads={threads} is not positive; use 1 to compute without threads")
    if not (q is None or q.channels == columns):
        raise ValueError(f"requantization of {q.channels} channels for {columns}; give one per channel")
    options.zero_point, options.is_signed, options.threads = zero_point, is_signed, threads
    options.q = NULL if q is None else &q.q
    return options


def matmul(const uint8_t[:, :] a, Weights w, out, int zero_point, bint is_signed, Requantization q,
           int threads):
    """out = (a - zero_point) @ levels[codes]: int32 (M, N), or uint8 codes with q; rows of a contiguous."""
    cdef int32_t[:, ::1] sums
    cdef uint8_t[:, ::1] codes
    cdef void *to = NULL
    cdef const uint8_t *first = NULL
    cdef int m = a.shape[0], k = a.shape[1], n = w.shape[1], failed
    cdef int_options options = options_of(zero_point, is_signed, q, threads, n)
    if not (len(w.shape) == 2 and w.shape[0] == k):
        raise ValueError(f"a of shape {(m, k)} times weights of shape {w.shape}; K must be the same")
    if not (a.strides[1] == 1 or k <= 1):
        raise ValueError("a with gaps between the entries of a row")
    if q is None:
        sums = out
        if not (sums.shape[0] == m and sums.shape[1] == n):
            raise ValueError("out has another shape than the result")
        to = &sums[0, 0] if m and n else NULL
    else:
        codes = out
        if not (codes.shape[0] == m and codes.shape[1] == n):
            raise ValueError("out has another shape than the result")
        to = &codes[0, 0] if m and n else NULL
    if to == NULL:
        return
    if k:
        first = &a[0, 0]
    with nogil:
        failed = int_gemm(w.parts[0], m, first, a.strides[0], to, n, &options)
    checked(failed)


cdef int_window window_of(const uint8_t[:, :, :, ::1] x, tuple shape, int groups, stride, padding, out_h,
                          out_w) except *:
    cdef int_window s
    s.images, s.height, s.width, s.channels = x.shape[0], x.shape[1], x.shape[2], x.shape[3]
    s.kernel_h, s.kernel_w, s.groups, s.columns = shape[0], shape[1], groups, shape[3]
    s.stride_h, s.stride_w = stride
    s.pad_top, s.pad_left = padding
    s.out_h, s.out_w = out_h, out_w
    if not (s.channels == shape[2] * groups and s.columns % groups == 0):
        raise ValueError(f"x has {s.channels} channels, weights of shape {shape} in {groups} groups")
    if not (s.stride_h > 0 and s.stride_w > 0 and s.pad_top >= 0 and s.pad_left >= 0):
        raise ValueError(f"stride={stride} is not positive or padding={padding} is negative")
    if not (s.kernel_h > 0 and s.kernel_w > 0 and s.out_h >= 0 and s.out_w >= 0):
        raise ValueError(f"a kernel of {shape[:2]} does not fit into {(s.height, s.width)} with padding")
    if s.images * <double>s.out_h * s.out_w * s.columns >= 2**31 or (
            (s.out_h * <double>s.stride_h + s.kernel_h) * (s.out_w * <double>s.stride_w + s.kernel_w)
            * s.channels >= 2**31):
        raise ValueError("images or results of 2^31 elements and more; use a smaller batch")
    if not (s.kernel_h <= INT_MAX_TAPS):
        raise ValueError(f"a kernel of more than {INT_MAX_TAPS} rows; use a smaller one")
    return s


cdef const uint8_t *first_of(const uint8_t[:, :, :, ::1] x) noexcept:
    return &x[0, 0, 0, 0] if x.shape[0] * x.shape[1] * x.shape[2] * x.shape[3] else NULL


cdef void *output_of(const int_window *s, out, Requantization q) except? NULL:
    cdef int32_t[:, :, :, ::1] sums
    cdef uint8_t[:, :, :, ::1] codes
    if q is None:
        sums = out
        if not (sums.shape[0] == s.images and sums.shape[1] == s.out_h and sums.shape[2] == s.out_w
                and sums.shape[3] == s.columns):
            raise ValueError("out has another shape than the result")
        return &sums[0, 0, 0, 0] if sums.shape[0] * sums.shape[1] * sums.shape[2] * sums.shape[3] else NULL
    codes = out
    if not (codes.shape[0] == s.images and codes.shape[1] == s.out_h and codes.shape[2] == s.out_w
            and codes.shape[3] == s.columns):
        raise ValueError("out has another shape than the result")
    return &codes[0, 0, 0, 0] if codes.shape[0] * codes.shape[1] * codes.shape[2] * codes.shape[3] else NULL


def conv2d(const uint8_t[:, :, :, ::1] x, Weights w, out, stride, padding, int zero_point, bint is_signed,
           Requantization q, int threads):
    """Convolution NHWC x HWIO; out (N, OH, OW, O) says how far it goes; (top, left) padding = zero_point."""
    if not (len(w.shape) == 4):
        raise ValueError(f"weights of shape {w.shape}")
    cdef int_window s = window_of(x, w.shape, w.groups, stride, padding, out.shape[1], out.shape[2])
    cdef int_options options = options_of(zero_point, is_signed, q, threads, s.columns)
    cdef void *to = output_of(&s, out, q)
    cdef const uint8_t *image = first_of(x)
    cdef int failed
    if to == NULL:
        return
    with nogil:
        failed = int_conv(&s, w.parts, image, to, &options)
    checked(failed)


cdef class DepthwiseWeights:
    """Levels (taps, C and padding) of a depthwise convolution of (KH, KW, 1, C), and their sums."""
    cdef int16_t[:, ::1] levels
    cdef int32_t[::1] sums
    cdef const int_isa *chosen
    cdef readonly int groups, bits
    cdef readonly tuple shape
    cdef readonly str isa

    def __cinit__(self, int16_t[:, ::1] levels, int32_t[::1] sums, int bits, tuple shape, isa):
        self.chosen = isa_of(isa)
        self.levels, self.sums, self.isa, self.bits, self.shape = levels, sums, isa, bits, shape
        self.groups = sums.shape[0]
        if not (len(shape) == 4 and shape[2:] == (1, self.groups) and shape[0] * shape[1] == levels.shape[0]
                and levels.shape[1] % INT_BLOCK == 0 and levels.shape[1] >= self.groups
                and 0 < levels.shape[0] <= INT_MAX_TAPS):
            raise ValueError(f"depthwise weights of shape {shape}; a kernel has 1 to {INT_MAX_TAPS} taps")

    @property
    def nbytes(self):
        """Bytes of the compute layout."""
        return self.levels.nbytes


def depthwise_conv2d(const uint8_t[:, :, :, ::1] x, DepthwiseWeights w, out, stride, padding, int zero_point,
                     bint is_signed, Requantization q, int threads):
    """Depthwise convolution; arguments as those of `conv2d`."""
    cdef int_window s = window_of(x, w.shape, w.groups, stride, padding, out.shape[1], out.shape[2])
    cdef int_options options = options_of(zero_point, is_signed, q, threads, s.columns)
    cdef void *to = output_of(&s, out, q)
    cdef const uint8_t *image = first_of(x)
    cdef int failed
    if to == NULL:
        return
    with nogil:
        failed = int_depthwise(w.chosen, &s, &w.levels[0, 0], &w.sums[0], image, to, &options)
    checked(failed)


def pool2d(const uint8_t[:, :, :, ::1] x, out, size, stride, padding, bint is_signed, bint maximum,
           Requantization q, int threads, str isa):
    """Maximum (codes of x's type, as uint8) or sum (int32, or codes with q) of windows without padding."""
    cdef int_window s = window_of(x, (*size, 1, x.shape[3]), x.shape[3], stride, padding, out.shape[1],
                                  out.shape[2])
    cdef int_options options = options_of(0, is_signed, q, threads, s.columns)
    cdef const int_isa *chosen = isa_of(isa)
    cdef uint8_t[:, :, :, ::1] codes
    cdef void *to
    cdef const uint8_t *image = first_of(x)
    cdef int failed = 0
    if not (s.kernel_h * s.kernel_w <= INT_MAX_TAPS):
        raise ValueError(f"windows of {size} pixels; at most {INT_MAX_TAPS} in all")
    if maximum:
        codes = out
        if not (codes.shape[0] == s.images and codes.shape[3] == s.channels):
            raise ValueError("out has another shape than the result")
        if codes.shape[0] * codes.shape[1] * codes.shape[2] * codes.shape[3]:
            int_max_pool(chosen, &s, image, &codes[0, 0, 0, 0], &options)
        return
    to = output_of(&s, out, q)
    if to != NULL:
        failed = int_sum_pool(chosen, &s, image, to, &options)
    checked(failed)


def add(const uint8_t[::1] a, const uint8_t[::1] b, const float[:, ::1] factors, int top, bint signed_a,
        bint signed_b, uint8_t[::1] out, int threads, str isa):
    """Codes of a * factors[0] + b * factors[1] + factors[2]; the factors repeat along the arrays."""
    cdef int_addition s
    cdef const int_isa *chosen = isa_of(isa)
    cdef Py_ssize_t count = a.shape[0]
    cdef int period = factors.shape[1]
    if not (b.shape[0] == count and out.shape[0] == count and factors.shape[0] == 3 and period
            and period % INT_BLOCK == 0 and 0 < top <= 255 and threads >= 1):
        raise ValueError(f"arrays of {count}, {b.shape[0]}, {out.shape[0]} elements, factors {factors.shape}")
    if not count:
        return
    s.multiplier_a, s.multiplier_b, s.offset = &factors[0, 0], &factors[1, 0], &factors[2, 0]
    s.top, s.signed_a, s.signed_b = top, signed_a, signed_b
    with nogil:
        int_add(chosen, &s, count, period, &a[0], &b[0], &out[0], threads)


def quantize(const float[:, ::1] x, Requantization q, uint8_t[:, ::1] out, int threads, str isa):
    """Codes of float32 (rows, channels)."""
    cdef const int_isa *chosen = isa_of(isa)
    cdef Py_ssize_t rows = x.shape[0], channels = x.shape[1]
    if not (q.channels == channels and out.shape[0] == rows and out.shape[1] == channels and threads >= 1):
        raise ValueError(f"x {(rows, channels)}, out or a requantization of {q.channels} channels differ")
    if q.q.direction != NULL:
        raise ValueError("thresholds count int32 sums, and x is float32; give multiplier and offset alone")
    if rows and channels:
        with nogil:
            int_quantize(chosen, &q.q, rows * channels, q.period, &x[0, 0], &out[0, 0], threads)


def requantize(const int32_t[:, ::1] acc, Requantization q, uint8_t[:, ::1] out):
    """Codes of accumulators (M, channels)."""
    if not (acc.shape[1] == q.channels and out.shape[0] == acc.shape[0] and out.shape[1] == q.channels):
        raise ValueError("shapes that differ")
    for i in range(acc.shape[0] if q.channels else 0):
        int_requantize(&q.q, &acc[i, 0], 0, q.channels, &out[i, 0])


def matmul_naive(const uint8_t[:, :] a, const uint8_t[:, ::1] codes, const int8_t[::1] levels,
                 int32_t[:, ::1] out, int zero_point, bint is_signed):
    """The loops that define `matmul`."""
    cdef int m = a.shape[0], k = a.shape[1], n = codes.shape[1]
    cdef int_options options = options_of(zero_point, is_signed, None, 1, n)
    if not (codes.shape[0] == k and out.shape[0] == m and out.shape[1] == n):
        raise ValueError("shapes that differ")
    if not (a.strides[1] == 1 or k <= 1):
        raise ValueError("a with gaps between the entries of a row")
    if m and n:
        int_gemm_naive(m, k, n, &a[0, 0] if k else NULL, a.strides[0], &codes[0, 0] if k else NULL,
                       &levels[0], &out[0, 0], &options)


def conv2d_naive(const uint8_t[:, :, :, ::1] x, const uint8_t[:, :, :, ::1] codes, const int8_t[::1] levels,
                 int32_t[:, :, :, ::1] out, int groups, stride, padding, int zero_point, bint is_signed):
    """The loops that define `conv2d`."""
    shape = (codes.shape[0], codes.shape[1], codes.shape[2], codes.shape[3])
    cdef int_window s = window_of(x, shape, groups, stride, padding, out.shape[1], out.shape[2])
    cdef int_options options = options_of(zero_point, is_signed, None, 1, s.columns)
    cdef void *to = output_of(&s, out, None)
    if to != NULL:
        int_conv_naive(&s, first_of(x), first_of(codes), &levels[0], <int32_t *>to, &options)
