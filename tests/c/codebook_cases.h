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

static void check_codebooks(uint64_t *hashes)
{
    static const int rows[] = {0, 1, 2, 3, 5, 6, 7, 20}, columns[] = {0, 1, 15, 16, 17, 33, 64, 65, 130};
    static const int lengths[] = {0, 1, 3, 7, 8, 9, 16, 31, 33, 255, 256, 257, 300};
    for (int bits = 1; bits <= 8; bits++)
        for (int i = 0; i < 13; i++) {
            int m = rows[below(8)], n = columns[below(9)];
            check_codebook(m, lengths[i], n, bits, 1 + i % 3, hashes);
        }
}
