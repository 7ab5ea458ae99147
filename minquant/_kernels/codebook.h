/* Weight-only products: float32 activations times codes of 1..8 bits that a codebook of float32 gives
 * meaning.
 *
 *   out[i][n] = sum over k of a[i][k] * book[codes[k][n]]
 *
 * Contract: each output is one chain of fused multiply-adds in the order of k, from +0: acc = fmaf(a, w,
 * acc), rounded once per step. So it has the same bits on every instruction set and for any number of
 * threads, and they differ from the exact sum by at most K 2^-24 sum |a w| (1 + o(1)). Checks of arguments
 * are the caller's.
 */
#ifndef MINQUANT_CODEBOOK_H
#define MINQUANT_CODEBOOK_H
#include "int_isa.h"
#include <math.h>

typedef struct codebook_weights codebook_weights;

/* codes: k x columns, row-major; book: 2^bits values. NULL where memory is short. */
codebook_weights *codebook_weights_new(const int_isa *isa, const uint8_t *codes, int k, int columns, int bits,
                                       const float *book);
void codebook_weights_free(codebook_weights *w);
size_t codebook_weights_bytes(const codebook_weights *w);

/* a: m x k, rows `row` elements apart; out: m x columns, dense. 0, or -1 where memory is short. */
int codebook_gemm(const codebook_weights *w, int m, const float *a, ptrdiff_t row, float *out, int threads);

/* Convolution of NHWC floats (conv_codebook.c), each output one such chain in the order of kernel row, kernel
 * column, channel; padding is zeros, which take part. w: one per group, its k that order. 0 or -1. */
int codebook_conv(const int_window *s, codebook_weights *const *w, const float *x, float *out, int threads);

/* The same with groups = columns = channels. weights: taps x channels, as floats. */
int codebook_depthwise(const int_isa *isa, const int_window *s, const float *weights, const float *x,
                       float *out, int threads);

/* The loops that define them. */
void codebook_gemm_naive(int m, int k, int n, const float *a, ptrdiff_t row, const uint8_t *codes,
                         const float *book, float *out);
void codebook_conv_naive(const int_window *s, const float *x, const uint8_t *codes, const float *book,
                         float *out);

/* ---- What both are to the tiles: rows in runs of `run_rows` that lie `row` floats apart; run r begins at
 * a + r * line. A row is segments of `length` floats, at the given offsets, k in all. Results are rows
 * out_row apart. ---- */
typedef struct {
    const codebook_weights *w;
    const float *a;
    ptrdiff_t row, line;
    int rows, run_rows, length;
    const ptrdiff_t *offsets;
    float *out;
    ptrdiff_t out_row;
} codebook_product;
int codebook_product_run(const codebook_product *p, int threads);

/* ---- What an instruction set provides (codebook_tile.h) ----
 * A panel is a number of columns; its word [k / each][column] of 32 bits holds each = 32 / bits codes:
 *
 *   4 bits   | k + 7 | k + 6 | k + 5 | k + 4 | k + 3 | k + 2 | k + 1 |   k   |
 *   bit       31      27      23      19      15      11       7       3    0
 */
#define CODEBOOK_CHUNK 256 /* of k, decoded at once: a multiple of 32 */
#define CODEBOOK_FLOATS 32 /* "bits" of a decoded panel */
#define CODEBOOK_COLUMNS 64

typedef struct {
    const float *a;
    ptrdiff_t row;
    const void *w; /* words, or floats [k][columns of a panel] */
    const float *book;
    int bits, rows, k, columns; /* columns: of the panel that are wanted */
    float *out;                 /* and the sums so far, where `more` */
    ptrdiff_t out_row;
    int more;
} codebook_tile;

struct codebook_isa {
    const char *name;
    int rows, columns;
    int fused_rows; /* up to so many rows, codes of at most 4 bits are decoded in registers */
    void (*decode)(const uint32_t *words, int bits, int k, const float *book, float *to); /* 1, 2 or 4 bits */
    void (*tile)(const codebook_tile *t);
    /* out[c] = chain over taps of x[offsets[tap] + c] * w[tap][c] */
    void (*depthwise)(int taps, const ptrdiff_t *offsets, int channels, const float *x, const float *w,
                      float *out);
};

/* The channels from `first` on, one at a time. */
static inline void codebook_depthwise_rest(int taps, const ptrdiff_t *offsets, int channels, int first,
                                           const float *x, const float *w, float *out)
{
    for (int c = first; c < channels; c++) {
        float sum = 0;
        for (int tap = 0; tap < taps; tap++)
            sum = fmaf(x[offsets[tap] + c], w[(ptrdiff_t)tap * channels + c], sum);
        out[c] = sum;
    }
}

#endif
