# Matrix-vector products by look-up of partial sums (lut.h). Part of integer.pyx.


cdef class LookupWeights:
    """Codes (K, N) of 1 or 2 bits and their int8 levels, as nibbles."""
    cdef lut_weights *w
    cdef readonly int bits, activation_bits
    cdef readonly tuple shape
    cdef readonly str isa

    def __cinit__(self, const uint8_t[:, ::1] codes, const int8_t[::1] levels, int bits, int activation_bits, isa):
        cdef const int_isa *chosen = isa_of(isa)
        cdef int k = codes.shape[0], n = codes.shape[1], top = (1 << activation_bits) - 1
        if not (1 <= bits <= 8 and levels.shape[0] == 1 << bits and 1 <= activation_bits <= 8 and k <= INT_MAX_K):
            raise ValueError(f"{levels.shape[0]} levels for {bits} bits, K={k}, activation_bits={activation_bits}")
        if not lut_takes(chosen, bits, &levels[0], top):
            raise ValueError(f"no look-up kernel on {isa} for {bits} bits and these levels; use pack_weights")
        self.isa, self.bits, self.activation_bits, self.shape = isa, bits, activation_bits, (k, n)
        self.w = lut_weights_new(chosen, &codes[0, 0] if k and n else NULL, k, n, bits, &levels[0], top)
        if self.w == NULL:
            raise MemoryError("no memory for packed weights")

    def __dealloc__(self):
        lut_weights_free(self.w)

    @property
    def nbytes(self):
        """Bytes of the compute layout."""
        return lut_weights_bytes(self.w)


def matvec_lookup(const uint8_t[::1] a, LookupWeights w, int32_t[::1] out, int zero_point):
    """out = (a - zero_point) @ levels[codes] for one row of activations of w.activation_bits bits."""
    if not (a.shape[0] == w.shape[0] and out.shape[0] == w.shape[1]):
        raise ValueError(f"a of {a.shape[0]} and out of {out.shape[0]} entries for weights of shape {w.shape}")
    if out.shape[0]:
        with nogil:
            lut_gemv(w.w, &a[0] if a.shape[0] else NULL, zero_point, &out[0])
