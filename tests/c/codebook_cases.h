/* Weight-only products on every instruction set: the same bits as the naive loops. */
#include "codebook.h"
#include "testing.h"
#include <string.h>

static float random_float(void)
{
    float above = (float)((int)below(2001) - 1000);
    return above / (float)(1 + below(977));
}

static void check_codebook(int m, int k, int n, int bits, int threads, uint64_t *hashes)
{
    ptrdiff_t row = k + (ptrdiff_t)below(3);
    size_t length = m ? (size_t)(m - 1) * (size_t)row + (size_t)k : 0, outputs = (size_t)m * (size_t)n;
    float *a = need(length * sizeof *a), book[256];
    float *wanted = need(outputs * sizeof *wanted), *out = need(outputs * sizeof *out);
    uint8_t *codes = need((size_t)k * (size_t)n);
    const int_isa *isa;
    for (size_t i = 0; i < length; i++)
        a[i] = random_float();
    for (int i = 0; i < 1 << bits; i++)
        book[i] = random_float();
    for (size_t i = 0; i < (size_t)k * (size_t)n; i++)
        codes[i] = (uint8_t)below(1u << bits);
    codebook_gemm_naive(m, k, n, a, row, codes, book, wanted);
    for (int i = 0; i < MOST_ISAS && (isa = int_isa_at(i)); i++) {
        codebook_weights *w = codebook_weights_new(isa, codes, k, n, bits, book);
        memset(out, 0xa5, outputs * sizeof *out);
        if (!w || codebook_gemm(w, m, a, row, out, threads) || memcmp(out, wanted, outputs * sizeof *out)) {
            fprintf(stderr, "test_int: %s differs: codebook m=%d k=%d n=%d bits=%d threads=%d\n",
                    int_isa_name(isa), m, k, n, bits, threads);
            exit(1);
        }
        hashes[i] = hash_more(hashes[i], out, outputs * sizeof *out);
        codebook_weights_free(w);
    }
    free(a);
    free(wanted);
    free(out);
    free(codes);
}

static int is_depthwise(const int_window *s)
{
    return s->groups > 1 && s->groups == s->channels && s->groups == s->columns;
}

/* The convolution on one instruction set; 0, or -1 where memory is short. */
static int run_float_conv(const int_window *s, const int_isa *isa, const uint8_t *codes, int bits,
                          const float *book, const float *x, float *out, int threads)
{
    int each = s->columns / s->groups, k = s->kernel_h * s->kernel_w * (s->channels / s->groups), failed = 0;
    codebook_weights *w[3] = {NULL};
    uint8_t *part = need((size_t)k * (size_t)each);
    float *floats = need((size_t)k * (size_t)s->columns * sizeof *floats);
    for (int g = 0; g < s->groups && !is_depthwise(s); g++) {
        for (int i = 0; i < k; i++)
            memcpy(part + i * each, codes + i * s->columns + g * each, (size_t)each);
        w[g] = codebook_weights_new(isa, part, k, each, bits, book);
        failed |= !w[g];
    }
    for (int i = 0; i < k * s->columns; i++)
        floats[i] = book[codes[i]];
    if (is_depthwise(s))
        failed = codebook_depthwise(isa, s, floats, x, out, threads);
    else
        failed = failed || codebook_conv(s, w, x, out, threads);
    for (int g = 0; g < 3; g++)
        codebook_weights_free(w[g]);
    free(part);
    free(floats);
    return failed;
}

static int_window random_window(void)
{
    int_window s = {.images = 1 + (int)below(2), .groups = below(2) ? 1 : 3};
    s.channels = s.groups * (1 + (int)below(s.groups > 1 ? 2 : 40));
    s.columns = s.groups * (1 + (int)below(s.channels == s.groups ? 2 : 70));
    s.kernel_h = 1 + (int)below(3);
    s.kernel_w = 1 + (int)below(3);
    s.stride_h = 1 + (int)below(2);
    s.stride_w = 1 + (int)below(2);
    s.pad_top = (int)below(2);
    s.pad_left = (int)below(3);
    s.height = 3 + (int)below(6);
    s.width = 3 + (int)below(9);
    s.out_h = (s.height + 2 * s.pad_top - s.kernel_h) / s.stride_h + 1;
    s.out_w = (s.width + 2 * s.pad_left - s.kernel_w) / s.stride_w + 1;
    return s;
}

static void check_float_conv(int bits, int threads, uint64_t *hashes)
{
    int_window s = random_window();
    size_t inputs = (size_t)s.images * (size_t)s.height * (size_t)s.width * (size_t)s.channels;
    size_t outputs = (size_t)s.images * (size_t)s.out_h * (size_t)s.out_w * (size_t)s.columns;
    size_t weights = (size_t)(s.kernel_h * s.kernel_w) * (size_t)(s.channels / s.groups * s.columns);
    float *x = need(inputs * sizeof *x), *wanted = need(outputs * sizeof *x),
          *out = need(outputs * sizeof *x);
    float book[256];
    uint8_t *codes = need(weights);
    const int_isa *isa;
    for (size_t i = 0; i < inputs; i++)
        x[i] = random_float();
    for (int i = 0; i < 1 << bits; i++)
        book[i] = random_float();
    for (size_t i = 0; i < weights; i++)
        codes[i] = (uint8_t)below(1u << bits);
    codebook_conv_naive(&s, x, codes, book, wanted);
    for (int i = 0; i < MOST_ISAS && (isa = int_isa_at(i)); i++) {
        memset(out, 0xa5, outputs * sizeof *out);
        if (run_float_conv(&s, isa, codes, bits, book, x, out, threads) ||
            memcmp(out, wanted, outputs * sizeof *out)) {
            fprintf(stderr, "test_int: %s differs: float convolution of %dx%d, %d channels in %d groups\n",
                    int_isa_name(isa), s.kernel_h, s.kernel_w, s.channels, s.groups);
            exit(1);
        }
        hashes[i] = hash_more(hashes[i], out, outputs * sizeof *out);
    }
    free(x);
    free(wanted);
    free(out);
    free(codes);
}

static void check_codebooks(uint64_t *hashes)
{
    static const int rows[] = {0, 1, 2, 3, 5, 6, 7, 20}, columns[] = {0, 1, 15, 16, 17, 33, 64, 65, 130};
    static const int lengths[] = {0, 1, 3, 7, 8, 9, 16, 31, 33, 255, 256, 257, 300};
    for (int bits = 1; bits <= 8; bits++)
        for (int i = 0; i < 13; i++) {
            int m = rows[below(8)], n = columns[below(9)];
            check_codebook(m, lengths[i], n, bits, 1 + i % 3, hashes);
            check_float_conv(bits, 1 + i % 3, hashes);
        }
}
