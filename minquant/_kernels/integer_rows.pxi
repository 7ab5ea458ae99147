# Operations on single codes: addition, quantization, requantization. Part of integer.pyx.

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
