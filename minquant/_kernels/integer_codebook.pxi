# Weight-only products: float32 activations, codes into a codebook of float32. Part of integer.pyx.


cdef class CodebookWeights:
    """Codes (K, N) and their float32 values (2^bits), laid out for one instruction set."""
    cdef codebook_weights *w
    cdef readonly int bits
    cdef readonly tuple shape
    cdef readonly str isa

    def __cinit__(self, const uint8_t[:, ::1] codes, const float[::1] codebook, int bits, isa):
        cdef const int_isa *chosen = isa_of(isa)
        cdef const uint8_t *first = &codes[0, 0] if codes.shape[0] * codes.shape[1] else NULL
        if not (1 <= bits <= 8 and codebook.shape[0] == 1 << bits):
            raise ValueError(f"{codebook.shape[0]} values for {bits} bits")
        self.isa, self.bits, self.shape = isa, bits, (codes.shape[0], codes.shape[1])
        self.w = codebook_weights_new(chosen, first, codes.shape[0], codes.shape[1], bits, &codebook[0])
        if self.w == NULL:
            raise MemoryError("no memory for packed weights")

    def __dealloc__(self):
        codebook_weights_free(self.w)

    @property
    def nbytes(self):
        """Bytes of the compute layout."""
        return codebook_weights_bytes(self.w)


def matmul_codebook(const float[:, :] a, CodebookWeights w, float[:, ::1] out, int threads):
    """out = a @ codebook[codes], chains of fused multiply-adds; rows of a contiguous."""
    cdef Py_ssize_t m = a.shape[0], k = a.shape[1], row = a.strides[0] // sizeof(float)
    cdef int failed
    if not (w.shape[0] == k and out.shape[0] == m and out.shape[1] == w.shape[1] and threads >= 1):
        raise ValueError(f"a of shape {(m, k)} times weights of shape {w.shape} into {(out.shape[0], out.shape[1])}")
    if not ((a.strides[1] == sizeof(float) or k <= 1) and a.strides[0] % sizeof(float) == 0):
        raise ValueError("a with gaps between the entries of a row")
    if not (m * k < 2**31 and m * out.shape[1] < 2**31):
        raise ValueError("2^31 elements and more; use a smaller batch")
    if m and w.shape[1]:
        with nogil:
            failed = codebook_gemm(w.w, m, &a[0, 0] if k else NULL, row, &out[0, 0], threads)
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
