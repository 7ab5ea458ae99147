# The C functions that integer.pyx wraps.
from libc.stdint cimport int8_t, int16_t, int32_t, uint8_t, uint64_t

cdef extern from "int.h" nogil:
    int INT_MAX_K, INT_MAX_COLUMNS, INT_MAX_TAPS, INT_BLOCK
    ctypedef struct int_isa:
        pass
    ctypedef struct int_weights:
        pass
    ctypedef struct int_requantization:
        const float *multiplier
        const float *offset
        const int8_t *direction
        const int32_t *thresholds
        int steps, top
    ctypedef struct int_options:
        int zero_point, is_signed, threads
        const int_requantization *q
    ctypedef struct int_window:
        int images, height, width, channels, kernel_h, kernel_w, stride_h, stride_w, pad_top, pad_left
        int out_h, out_w, groups, columns
    const int_isa *int_isa_at(int index)
    int INT_PRODUCTS, INT_LOOPS, INT_CODEBOOKS, INT_LOOKUPS
    const char *int_isa_provider(int index, int family)
    const int_isa *int_isa_find(const char *name)
    const char *int_isa_name(const int_isa *isa)
    int int_isa_rate(const int_isa *isa)
    int int_has_openmp()
    void int_pack_bits(const uint8_t *codes, size_t count, int bits, uint8_t *stream)
    void int_unpack_bits(const uint8_t *stream, size_t count, int bits, uint8_t *codes)
    int_weights *int_weights_new(const int_isa *isa, const uint8_t *codes, int segments, int length,
                                 int columns, int bits, const int8_t *levels, int top)
    void int_weights_free(int_weights *w)
    size_t int_weights_bytes(const int_weights *w)
    void int_requantize(const int_requantization *q, const int32_t *acc, int first, int columns, uint8_t *to)
    int int_gemm(const int_weights *w, int m, const uint8_t *a, Py_ssize_t row, void *out, Py_ssize_t out_row,
                 const int_options *options)
    int int_conv(const int_window *s, int_weights **w, const uint8_t *x, void *out,
                 const int_options *options)
    void int_conv_segments(const int_window *s, int *segments, int *length)
    ctypedef struct int_addition:
        const float *multiplier_a
        const float *multiplier_b
        const float *offset
        int top, signed_a, signed_b
    int int_depthwise(const int_isa *isa, const int_window *s, const int16_t *levels, const int32_t *sums,
                      const uint8_t *x, void *out, const int_options *options)
    int int_max_pool(const int_isa *isa, const int_window *s, const uint8_t *x, uint8_t *out,
                     const int_options *options)
    int int_sum_pool(const int_isa *isa, const int_window *s, const uint8_t *x, void *out,
                     const int_options *options)
    void int_add(const int_isa *isa, const int_addition *s, Py_ssize_t count, int period, const uint8_t *a,
                 const uint8_t *b, uint8_t *out, int threads)
    void int_quantize(const int_isa *isa, const int_requantization *q, Py_ssize_t count, int period,
                      const float *x, uint8_t *out, int threads)
    void int_gemm_naive(int m, int k, int n, const uint8_t *a, Py_ssize_t row, const uint8_t *codes,
                        const int8_t *levels, int32_t *out, const int_options *options)
    void int_conv_naive(const int_window *s, const uint8_t *x, const uint8_t *codes, const int8_t *levels,
                        int32_t *out, const int_options *options)

cdef extern from "codebook.h" nogil:
    ctypedef struct codebook_weights:
        pass
    codebook_weights *codebook_weights_new(const int_isa *isa, const uint8_t *codes, int k, int columns, int bits,
                                           const float *book)
    void codebook_weights_free(codebook_weights *w)
    size_t codebook_weights_bytes(const codebook_weights *w)
    int codebook_gemm(const codebook_weights *w, int m, const float *a, Py_ssize_t row, float *out, int threads)
    int codebook_conv(const int_window *s, codebook_weights **w, const float *x, float *out, int threads)
    int codebook_depthwise(const int_isa *isa, const int_window *s, const float *weights, const float *x, float *out,
                           int threads)
    void codebook_conv_naive(const int_window *s, const float *x, const uint8_t *codes, const float *book, float *out)
    void codebook_gemm_naive(int m, int k, int n, const float *a, Py_ssize_t row, const uint8_t *codes,
                             const float *book, float *out)

cdef extern from "lut.h" nogil:
    ctypedef struct lut_weights:
        pass
    int lut_takes(const int_isa *isa, int bits, const int8_t *levels, int top)
    lut_weights *lut_weights_new(const int_isa *isa, const uint8_t *codes, int k, int columns, int bits,
                                 const int8_t *levels, int top)
    void lut_weights_free(lut_weights *w)
    size_t lut_weights_bytes(const lut_weights *w)
    void lut_gemv(const lut_weights *w, const uint8_t *a, int zero_point, int32_t *out)

cdef extern from "peak.h" nogil:
    uint64_t peak_products(const int_isa *isa)
    uint64_t peak_read(const uint64_t *start, size_t count)
