# cython: language_level=3, boundscheck=False, wraparound=False, embedsignature=True
"""Integer kernels on arrays: shapes, types and bounds are checked here, the C files of int.h compute.

Output arrays are passed in by the caller and wholly overwritten. `threads` never changes a result.
`minquant.kernels` is the public face of this module; `minquant.intops` says what every operation means.
"""
from math import gcd

from libc.stdint cimport int8_t, int16_t, int32_t, uint8_t, uint64_t
from libc.stdlib cimport calloc, free, getenv
from libc.string cimport memcpy

MAX_K, BLOCK = INT_MAX_K, INT_BLOCK


def isas():
    """Instruction sets that this machine has and this build knows, best first."""
    names, index = [], 0
    while int_isa_at(index) != NULL:
        names.append(int_isa_name(int_isa_at(index)).decode())
        index += 1
    return names


def environment(str name):
    """Value of an environment variable now, empty where it is not set; os.environ takes 20 times as long."""
    cdef const char *value = getenv(name.encode())
    return "" if value == NULL else value.decode("utf-8", "surrogateescape")


def providers():
    """{instruction set of this build, best first: {family: the one whose code computes its operations}}."""
    cdef int index = 0, family
    found = {}
    while int_isa_provider(index, INT_PRODUCTS) != NULL:
        found[int_isa_provider(index, INT_PRODUCTS).decode()] = {
            name: int_isa_provider(index, family).decode()
            for name, family in (("products", INT_PRODUCTS), ("loops", INT_LOOPS), ("codebooks", INT_CODEBOOKS),
                                 ("lookups", INT_LOOKUPS))}
        index += 1
    return found


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
    cdef readonly int groups, bits, activation_bits, rate
    cdef readonly tuple shape
    cdef readonly str isa

    def __cinit__(self, const uint8_t[:, :, :, ::1] codes, const int8_t[::1] levels, int bits, tuple shape,
                  int groups, isa, int activation_bits=8):
        cdef int_window s
        cdef int segments, length, each = codes.shape[3] // groups, g
        cdef const int_isa *chosen = isa_of(isa)
        cdef const uint8_t[:, :, :, ::1] part
        cdef const uint8_t *first = NULL
        if not (1 <= bits <= 8 and levels.shape[0] == 1 << bits):
            raise ValueError(f"{levels.shape[0]} levels for {bits} bits")
        if not (1 <= activation_bits <= 8):
            raise ValueError(f"activation_bits={activation_bits} is not in 1..8")
        if not (codes.shape[3] == each * groups):
            raise ValueError(f"{codes.shape[3]} output channels in {groups} groups")
        s.kernel_h, s.kernel_w, s.groups = codes.shape[0], codes.shape[1], groups
        s.channels = codes.shape[2] * groups
        if not (codes.shape[0] * codes.shape[1] * codes.shape[2] <= INT_MAX_K):
            raise ValueError(f"K={codes.shape[0] * codes.shape[1] * codes.shape[2]} is beyond {INT_MAX_K}")
        if not (groups == 1 or codes.shape[0] * codes.shape[1] <= INT_MAX_TAPS):
            raise ValueError(f"a kernel of more than {INT_MAX_TAPS} taps; use a smaller one")
        int_conv_segments(&s, &segments, &length)
        self.activation_bits = activation_bits
        self.isa, self.groups, self.bits, self.shape = int_isa_name(chosen).decode(), groups, bits, shape
        self.rate = int_isa_rate(chosen)
        self.parts = <int_weights **>calloc(groups, sizeof(int_weights *))
        if self.parts == NULL:
            raise MemoryError("no memory for packed weights")
        for g in range(groups):
            part = codes if groups == 1 else codes[:, :, :, g * each:(g + 1) * each].copy()
            first = NULL
            if segments and length and each:
                first = &part[0, 0, 0, 0]
            self.parts[g] = int_weights_new(chosen, first, segments, length, each, bits, &levels[0],
                                            (1 << activation_bits) - 1)
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
           int threads, int repeats=1):
    """out = (a - zero_point) @ levels[codes]: int32 (M, N), or uint8 codes with q; rows of a contiguous.

    repeats: how often to compute it, for benchmarks that time the C function alone.
    """
    cdef int32_t[:, ::1] sums
    cdef uint8_t[:, ::1] codes
    cdef void *to = NULL
    cdef const uint8_t *first = NULL
    cdef int m = a.shape[0], k = a.shape[1], n = w.shape[1], failed = 0
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
        for _ in range(repeats):
            failed |= int_gemm(w.parts[0], m, first, a.strides[0], to, n, &options)
    checked(failed)


include "integer_window.pxi"
include "integer_rows.pxi"
include "integer_codebook.pxi"
include "integer_lut.pxi"
include "integer_naive.pxi"
include "integer_peak.pxi"
