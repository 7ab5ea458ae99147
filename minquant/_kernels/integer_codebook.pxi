# Weight-only products: float32 activations, codes into a codebook of float32. Part of integer.pyx.


cdef class CodebookWeights:
    """Codes (K, N), or HWIO with groups, and their float32 values (2^bits), laid out for one instruction set."""
    cdef codebook_weights **parts
    cdef readonly int groups, bits
    cdef readonly tuple shape
    cdef readonly str isa

    def __cinit__(self, const uint8_t[:, :, :, ::1] codes, const float[::1] codebook, int bits, tuple shape,
                  int groups, isa):
        cdef const int_isa *chosen = isa_of(isa)
        cdef const uint8_t[:, :, :, ::1] part
        cdef Py_ssize_t taps = codes.shape[0] * codes.shape[1], k = taps * codes.shape[2]
        cdef int each = codes.shape[3] // groups, g
        if not (1 <= bits <= 8 and codebook.shape[0] == 1 << bits):
            raise ValueError(f"{codebook.shape[0]} values for {bits} bits")
        if not (codes.shape[3] == each * groups):
            raise ValueError(f"{codes.shape[3]} output channels in {groups} groups")
        if not (groups == 1 or taps <= INT_MAX_TAPS):
            raise ValueError(f"a kernel of more than {INT_MAX_TAPS} taps; use a smaller one")
        if not (k < 2**31):
            raise ValueError(f"K={k} is 2^31 or more")
        self.isa, self.groups, self.bits, self.shape = isa, groups, bits, shape
        self.parts = <codebook_weights **>calloc(groups, sizeof(codebook_weights *))
        if self.parts == NULL:
            raise MemoryError("no memory for packed weights")
        for g in range(groups):
            part = codes if groups == 1 else codes[:, :, :, g * each:(g + 1) * each].copy()
            self.parts[g] = codebook_weights_new(chosen, &part[0, 0, 0, 0] if k and each else NULL, k, each, bits,
                                                 &codebook[0])
            if self.parts[g] == NULL:
                raise MemoryError("no memory for packed weights")

    def __dealloc__(self):
        if self.parts != NULL:
            for g in range(self.groups):
                codebook_weights_free(self.parts[g])
            free(self.parts)

    @property
    def nbytes(self):
        """Bytes of the compute layout."""
        return sum(codebook_weights_bytes(self.parts[g]) for g in range(self.groups))


cdef class DepthwiseCodebookWeights:
    """Float32 values (taps, C) of a depthwise convolution of (KH, KW, 1, C)."""
    cdef const float[:, ::1] values
    cdef const int_isa *chosen
    cdef readonly int groups, bits
    cdef readonly tuple shape
    cdef readonly str isa

    def __cinit__(self, const float[:, ::1] values, int bits, tuple shape, isa):
        self.chosen = isa_of(isa)
        self.values, self.isa, self.bits, self.shape, self.groups = values, isa, bits, shape, values.shape[1]
        if not (len(shape) == 4 and shape[2:] == (1, self.groups) and shape[0] * shape[1] == values.shape[0]
                and 0 < values.shape[0] <= INT_MAX_TAPS):
            raise ValueError(f"depthwise weights of shape {shape}; a kernel has 1 to {INT_MAX_TAPS} taps")

    @property
    def nbytes(self):
        """Bytes of the compute layout."""
        return self.values.nbytes


def matmul_codebook(const float[:, :] a, CodebookWeights w, float[:, ::1] out, int threads):
    """out = a @ codebook[codes], chains of fused multiply-adds; rows of a contiguous."""
    cdef Py_ssize_t m = a.shape[0], k = a.shape[1], row = a.strides[0] // sizeof(float)
    cdef int failed
    if not (len(w.shape) == 2 and w.shape[0] == k and out.shape[0] == m and out.shape[1] == w.shape[1] and threads >= 1):
        raise ValueError(f"a of shape {(m, k)} times weights of shape {w.shape} into {(out.shape[0], out.shape[1])}")
    if not ((a.strides[1] == sizeof(float) or k <= 1) and a.strides[0] % sizeof(float) == 0):
        raise ValueError("a with gaps between the entries of a row")
    if not (m * k < 2**31 and m * out.shape[1] < 2**31):
        raise ValueError("2^31 elements and more; use a smaller batch")
    if m and w.shape[1]:
        with nogil:
            failed = codebook_gemm(w.parts[0], m, &a[0, 0] if k else NULL, row, &out[0, 0], threads)
        checked(failed)


cdef int_window float_window_of(const Py_ssize_t *x_shape, tuple shape, int groups, tuple stride, tuple padding,
                                const Py_ssize_t *out_shape) except *:
    """`window_of`, where the bytes of a pixel are counted in int."""
    cdef int_window s = window_of(x_shape, shape, groups, stride, padding, out_shape)
    if not (s.channels < 2**29):
        raise ValueError(f"{s.channels} channels; give less than 2^29")
    return s


cdef const float *first_float_of(const float[:, :, :, ::1] x) noexcept:
    return &x[0, 0, 0, 0] if x.shape[0] * x.shape[1] * x.shape[2] * x.shape[3] else NULL


def conv2d_codebook(const float[:, :, :, ::1] x, w, float[:, :, :, ::1] out, stride, padding, int threads):
    """Convolution NHWC x HWIO; out (N, OH, OW, O) says how far it goes; (top, left) padding of zeros.

    w: CodebookWeights or DepthwiseCodebookWeights.
    """
    cdef int_window s = float_window_of(x.shape, w.shape, w.groups, stride, padding, out.shape)
    cdef const float *image = first_float_of(x)
    cdef const float *values
    cdef float *to = <float *>first_float_of(out)
    cdef codebook_weights **parts
    cdef const int_isa *chosen
    cdef int failed
    if not (threads >= 1):
        raise ValueError(f"num_threads={threads} is not positive; use 1 to compute without threads")
    if to == NULL:
        return
    if isinstance(w, DepthwiseCodebookWeights):
        chosen, values = (<DepthwiseCodebookWeights>w).chosen, &(<DepthwiseCodebookWeights>w).values[0, 0]
        with nogil:
            failed = codebook_depthwise(chosen, &s, values, image, to, threads)
    else:
        parts = (<CodebookWeights?>w).parts
        with nogil:
            failed = codebook_conv(&s, parts, image, to, threads)
    checked(failed)


def matmul_codebook_naive(const float[:, ::1] a, const uint8_t[:, ::1] codes, const float[::1] codebook,
                          float[:, ::1] out):
    """The loops that define `matmul_codebook`."""
    cdef int m = a.shape[0], k = a.shape[1], n = codes.shape[1]
    if not (codes.shape[0] == k and out.shape[0] == m and out.shape[1] == n):
        raise ValueError("shapes that differ")
    if m and n:
        codebook_gemm_naive(m, k, n, &a[0, 0] if k else NULL, k, &codes[0, 0] if k else NULL, &codebook[0],
                            &out[0, 0])


def conv2d_codebook_naive(const float[:, :, :, ::1] x, const uint8_t[:, :, :, ::1] codes, const float[::1] codebook,
                          float[:, :, :, ::1] out, int groups, stride, padding):
    """The loops that define `conv2d_codebook`."""
    shape = (codes.shape[0], codes.shape[1], codes.shape[2], codes.shape[3])
    cdef int_window s = float_window_of(x.shape, shape, groups, stride, padding, out.shape)
    if out.shape[0] * out.shape[1] * out.shape[2] * out.shape[3]:
        codebook_conv_naive(&s, first_float_of(x), first_of(codes), &codebook[0], &out[0, 0, 0, 0])
