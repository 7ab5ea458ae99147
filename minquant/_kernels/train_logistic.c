/* The logistic grid: work is cut into blocks of fixed size, whose sums are added in their order. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "train_logistic.h"

enum { BLOCK = 2048, MOST_SUMS = 2 + MOST_GATES };

static const logistic_isa *isa(void)
{
#if defined(__x86_64__)
    if (!strcmp(train_isa(), logistic_isa_avx512.name))
        return &logistic_isa_avx512;
    if (!strcmp(train_isa(), logistic_isa_avx2.name))
        return &logistic_isa_avx2;
#endif
    return &logistic_isa_generic;
}

static ptrdiff_t blocks(ptrdiff_t count) { return (count + BLOCK - 1) / BLOCK; }

static int block_size(ptrdiff_t block, ptrdiff_t count)
{
    ptrdiff_t left = count - block * BLOCK;
    return left < BLOCK ? (int)left : BLOCK;
}

/* Sums of the blocks: zeros for all; and their total, which frees them. */
static double *block_sums(ptrdiff_t count)
{
    return calloc((size_t)blocks(count), MOST_SUMS * sizeof(double));
}

static void total(double *of_blocks, ptrdiff_t count, double *sums, int how_many)
{
    for (int k = 0; k < how_many; k++) {
        sums[k] = 0;
        for (ptrdiff_t block = 0; block < blocks(count); block++)
            sums[k] += of_blocks[block * MOST_SUMS + k];
    }
    free(of_blocks);
}

void train_exp_log(ptrdiff_t count, const float *x, float *e, float *l)
{
    for (ptrdiff_t block = 0; block < blocks(count); block++)
        isa()->exp_log(block_size(block, count), x + block * BLOCK, e + block * BLOCK, l + block * BLOCK);
}

void train_logistic_round(const logistic_grid *g, ptrdiff_t count, const float *x, float *y, int threads)
{
    const logistic_isa *k = isa();
    PARALLEL_FOR(threads)
    for (ptrdiff_t block = 0; block < blocks(count); block++)
        k->round(g, block_size(block, count), x + block * BLOCK, y + block * BLOCK);
}

/* The indices of the values that are not 0, and how many; without a jump, which could not be predicted. */
static int others_than_zero(int count, const float *x, int *place)
{
    int others = 0;
    for (int i = 0; i < count; i++) {
        uint32_t bits;
        memcpy(&bits, x + i, sizeof bits);
        place[others] = i;
        others += bits << 1 != 0; /* its sign aside */
    }
    return others;
}

/* `full` for a block: behind a ReLU half of the values are 0, which have their slopes (by x, alpha, sigma) in
 * common; the others are moved together. */
static void full_block(const logistic_isa *k, const logistic_grid *g, int normalize, const double at_zero[3],
                       int count, const float *dy, const float *x, float *dx, double *sums)
{
    int place[BLOCK], others = others_than_zero(count, x, place);
    float dys[BLOCK], xs[BLOCK], dxs[BLOCK];
    double upstream = k->zeros(count, dy, x, (float)at_zero[0], dx);
    sums[0] += at_zero[1] * upstream;
    sums[1] += at_zero[2] * upstream;
    for (int i = 0; i < others; i++) {
        dys[i] = dy[place[i]];
        xs[i] = x[place[i]];
    }
    if (others)
        k->full(g, normalize, others, dys, xs, dxs, sums);
    for (int i = 0; i < others; i++)
        dx[place[i]] = dxs[i];
}

int train_logistic_full(const logistic_grid *g, int normalize, ptrdiff_t count, const float *dy,
                        const float *x, float *dx, double sums[2], int threads)
{
    const logistic_isa *k = isa();
    const float zero = 0, one = 1;
    float slope;
    double *of_blocks = block_sums(count), at_zero[3] = {0};
    if (!of_blocks)
        return -1;
    k->full(g, normalize, 1, &one, &zero, &slope, at_zero + 1);
    at_zero[0] = slope;
    PARALLEL_FOR(threads)
    for (ptrdiff_t block = 0; block < blocks(count); block++) {
        ptrdiff_t start = block * BLOCK;
        full_block(k, g, normalize, at_zero, block_size(block, count), dy + start, x + start, dx + start,
                   of_blocks + block * MOST_SUMS);
    }
    total(of_blocks, count, sums, 2);
    return 0;
}

int train_logistic_gated(const logistic_grid *g, const gated_intervals *gated, ptrdiff_t count,
                         const float *dy, const float *x, const float *n, float *dx,
                         double sums[2 + MOST_GATES], int threads)
{
    const logistic_isa *k = isa();
    double *of_blocks = block_sums(count);
    if (!of_blocks)
        return -1;
    PARALLEL_FOR(threads)
    for (ptrdiff_t block = 0; block < blocks(count); block++) {
        ptrdiff_t start = block * BLOCK;
        k->gated(g, gated, block_size(block, count), dy + start, x + start, n ? n + start : NULL, dx + start,
                 of_blocks + block * MOST_SUMS);
    }
    total(of_blocks, count, sums, 2 + gated->gates);
    return 0;
}

void train_logistic_sample(const logistic_grid *g, const relaxation *r, ptrdiff_t count, const float *x,
                           const uint32_t *noise, float *y, int threads)
{
    const logistic_isa *k = isa();
    PARALLEL_FOR(threads)
    for (ptrdiff_t block = 0; block < blocks(count); block++) {
        ptrdiff_t start = block * BLOCK;
        k->sample(g, r, block_size(block, count), x + start, noise + start, count, y + start);
    }
}

int train_logistic_sample_slopes(const logistic_grid *g, const relaxation *r, ptrdiff_t count,
                                 const float *dy, const float *x, const uint32_t *noise, float *dx,
                                 double sums[2], int threads)
{
    const logistic_isa *k = isa();
    double *of_blocks = block_sums(count);
    if (!of_blocks)
        return -1;
    PARALLEL_FOR(threads)
    for (ptrdiff_t block = 0; block < blocks(count); block++) {
        ptrdiff_t start = block * BLOCK;
        k->sample_slopes(g, r, block_size(block, count), dy + start, x + start, noise + start, count,
                         dx + start, of_blocks + block * MOST_SUMS);
    }
    total(of_blocks, count, sums, 2);
    return 0;
}
