/* Weight-only products in plain C; fast where the machine has fused multiply-adds, right everywhere. */
#include "codebook.h"
#include <math.h>
#include <string.h>

#define COLUMNS 16

static void decode(const uint32_t *words, int bits, int k, const float *book, float *to)
{
    int each = 32 / bits;
    for (int i = 0; i < k; i++)
        for (int c = 0; c < COLUMNS; c++)
            *to++ = book[words[i / each * COLUMNS + c] >> i % each * bits & 15];
}

static void tile(const codebook_tile *t)
{
    float sums[COLUMNS] = {0};
    const float *w = t->w;
    if (t->more)
        memcpy(sums, t->out, (size_t)t->columns * sizeof *sums);
    for (int k = 0; k < t->k; k++, w += COLUMNS)
        for (int c = 0; c < COLUMNS; c++)
            sums[c] = fmaf(t->a[k], w[c], sums[c]);
    memcpy(t->out, sums, (size_t)t->columns * sizeof *sums);
}

static void depthwise(int taps, const ptrdiff_t *offsets, int channels, const float *x, const float *w,
                      float *out)
{
    codebook_depthwise_rest(taps, offsets, channels, 0, x, w, out);
}

static const struct codebook_isa isa = {"generic", 1, COLUMNS, 0, decode, tile, depthwise};
const struct codebook_isa *const codebook_isa_generic = &isa;
