# Operations on windows of images: convolution, depthwise convolution, pooling. Part of integer.pyx.

cdef int_window window_of(const Py_ssize_t *x_shape, tuple shape, int groups, tuple stride, tuple padding,
                          const Py_ssize_t *out_shape) except *:
    cdef int_window s
    if not (len(shape) == 4):
        raise ValueError(f"weights of shape {shape}")
    cdef int each = shape[2]
    s.images, s.height, s.width, s.channels = x_shape[0], x_shape[1], x_shape[2], x_shape[3]
    s.kernel_h, s.kernel_w, s.groups, s.columns = shape[0], shape[1], groups, shape[3]
    s.stride_h, s.stride_w = stride[0], stride[1]
    s.pad_top, s.pad_left = padding[0], padding[1]
    s.out_h, s.out_w = out_shape[1], out_shape[2]
    if not (s.channels == each * <Py_ssize_t>groups and s.columns % groups == 0):
        raise ValueError(f"x has {s.channels} channels, weights of shape {shape} in {groups} groups")
    if not (out_shape[0] == s.images and out_shape[3] == s.columns):
        raise ValueError("out has another shape than the result")
    if not (s.stride_h > 0 and s.stride_w > 0 and s.pad_top >= 0 and s.pad_left >= 0):
        raise ValueError(f"stride={stride} is not positive or padding={padding} is negative")
    if not (s.kernel_h > 0 and s.kernel_w > 0 and s.out_h >= 0 and s.out_w >= 0):
        raise ValueError(f"a kernel of {shape[:2]} does not fit into {(s.height, s.width)} with padding")
    if s.images * <double>s.out_h * s.out_w * s.columns >= 2147483648.0 or (
            (s.out_h * <double>s.stride_h + s.kernel_h) * (s.out_w * <double>s.stride_w + s.kernel_w)
            * s.channels >= 2147483648.0):
        raise ValueError("images or results of 2^31 elements and more; use a smaller batch")
    if not (s.kernel_h <= INT_MAX_TAPS):
        raise ValueError(f"a kernel of more than {INT_MAX_TAPS} rows; use a smaller one")
    return s


cdef const uint8_t *first_of(const uint8_t[:, :, :, ::1] x) noexcept:
    return &x[0, 0, 0, 0] if x.shape[0] * x.shape[1] * x.shape[2] * x.shape[3] else NULL


cdef void *output_of(out, bint holds_codes, Py_ssize_t *shape) except? NULL:
    """The uint8 codes, else int32 sums, of `out` and its shape; NULL where it is empty."""
    cdef int32_t[:, :, :, ::1] sums
    cdef uint8_t[:, :, :, ::1] codes
    cdef Py_ssize_t size = 1
    cdef int i
    if holds_codes:
        codes = out
    else:
        sums = out
    for i in range(4):
        shape[i] = codes.shape[i] if holds_codes else sums.shape[i]
        size *= shape[i]
    if not size:
        return NULL
    return <void *>&codes[0, 0, 0, 0] if holds_codes else <void *>&sums[0, 0, 0, 0]


def conv2d(const uint8_t[:, :, :, ::1] x, Weights w, out, stride, padding, int zero_point, bint is_signed,
           Requantization q, int threads, int repeats=1):
    """Convolution NHWC x HWIO; out (N, OH, OW, O) says how far it goes; (top, left) padding = zero_point.

    repeats: as in `matmul`.
    """
    cdef Py_ssize_t out_shape[4]
    cdef void *to = output_of(out, q is not None, out_shape)
    cdef int_window s = window_of(x.shape, w.shape, w.groups, stride, padding, out_shape)
    cdef int_options options = options_of(zero_point, is_signed, q, threads, s.columns)
    cdef const uint8_t *image = first_of(x)
    cdef int failed = 0
    if to == NULL:
        return
    with nogil:
        for _ in range(repeats):
            failed |= int_conv(&s, w.parts, image, to, &options)
    checked(failed)


cdef class DepthwiseWeights:
    """Levels (taps, C and padding) of a depthwise convolution of (KH, KW, 1, C), and their sums."""
    cdef int16_t[:, ::1] levels
    cdef int32_t[::1] sums
    cdef const int_isa *chosen
    cdef readonly int groups, bits, activation_bits
    cdef readonly tuple shape
    cdef readonly str isa

    def __cinit__(self, int16_t[:, ::1] levels, int32_t[::1] sums, int bits, tuple shape, isa,
                  int activation_bits=8):
        self.activation_bits = activation_bits
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
    cdef Py_ssize_t out_shape[4]
    cdef void *to = output_of(out, q is not None, out_shape)
    cdef int_window s = window_of(x.shape, w.shape, w.groups, stride, padding, out_shape)
    cdef int_options options = options_of(zero_point, is_signed, q, threads, s.columns)
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
    cdef Py_ssize_t out_shape[4]
    cdef void *to = output_of(out, maximum or q is not None, out_shape)
    cdef int_window s = window_of(x.shape, (*size, 1, x.shape[3]), x.shape[3], stride, padding, out_shape)
    cdef int_options options = options_of(0, is_signed, q, threads, s.columns)
    cdef const int_isa *chosen = isa_of(isa)
    cdef const uint8_t *image = first_of(x)
    cdef int failed
    if not (s.kernel_h * s.kernel_w <= INT_MAX_TAPS):
        raise ValueError(f"windows of {size} pixels; at most {INT_MAX_TAPS} in all")
    if to == NULL:
        return
    with nogil:
        if maximum:
            failed = int_max_pool(chosen, &s, image, <uint8_t *>to, &options)
        else:
            failed = int_sum_pool(chosen, &s, image, to, &options)
    checked(failed)
