# Operations on windows of images: convolution, depthwise convolution, pooling. Part of integer.pyx.

cdef int_window window_of(const Py_ssize_t *x_shape, tuple shape, int groups, stride, padding, out_h,
                          out_w) except *:
    cdef int_window s
    s.images, s.height, s.width, s.channels = x_shape[0], x_shape[1], x_shape[2], x_shape[3]
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
    cdef int_window s = window_of(x.shape, w.shape, w.groups, stride, padding, out.shape[1], out.shape[2])
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
    cdef int_window s = window_of(x.shape, w.shape, w.groups, stride, padding, out.shape[1], out.shape[2])
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
    cdef int_window s = window_of(x.shape, (*size, 1, x.shape[3]), x.shape[3], stride, padding, out.shape[1],
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
