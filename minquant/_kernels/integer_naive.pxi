# The loops that define the products, for tests. Part of integer.pyx.

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
    cdef int_window s = window_of(x.shape, shape, groups, stride, padding, out.shape)
    cdef int_options options = options_of(zero_point, is_signed, None, 1, s.columns)
    if out.shape[0] * out.shape[1] * out.shape[2] * out.shape[3]:
        int_conv_naive(&s, first_of(x), first_of(codes), &levels[0], &out[0, 0, 0, 0], &options)
