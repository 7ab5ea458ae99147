/* Batch normalization, and the other sums over all rows of a (rows, channels) array.
 *
 * Sums run in float32 inside blocks of BLOCK_FLOATS, which stay in the second-level cache, and in double
 * over the blocks, always in their order.  Inside a block `repeat` neighbouring rows act as one row of
 * wide = repeat * c floats, so that the inner loops are long whatever c is. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "train.h"

enum { BLOCK_FLOATS = 1 << 14, WIDE_FLOATS = 64 };

typedef struct {
    ptrdiff_t rows, block_rows, blocks;
    int c, wide;
} row_plan;

static row_plan plan_rows(ptrdiff_t rows, int c)
{
    row_plan p = {.rows = rows, .c = c, .wide = c * at_least(WIDE_FLOATS / c, 1)};
    p.block_rows = at_least(BLOCK_FLOATS / c, 1);
    p.blocks = (rows + p.block_rows - 1) / p.block_rows;
    return p;
}

/* Number of rows in a block; all but the last are full. */
static ptrdiff_t rows_of(const row_plan *p, ptrdiff_t block)
{
    ptrdiff_t left = p->rows - block * p->block_rows;
    return left < p->block_rows ? left : p->block_rows;
}

/* wide[i] = values[i % c] */
static void widen(const row_plan *p, const float *values, float *wide)
{
    for (int i = 0; i < p->wide; i++)
        wide[i] = values[i % p->c];
}

/* sums[k] = sum over the repeats of channel k */
static void fold(const row_plan *p, const float *wide, float *sums)
{
    memcpy(sums, wide, (size_t)p->c * sizeof(float));
    for (int i = p->c; i < p->wide; i++)
        sums[i % p->c] += wide[i];
}

static void block_sum(const row_plan *p, const float *x, ptrdiff_t rows, float *wide, float *sums)
{
    memset(wide, 0, (size_t)p->wide * sizeof(float));
    for (ptrdiff_t left = rows * p->c; left > 0; left -= p->wide, x += p->wide) {
        int count = left < p->wide ? (int)left : p->wide;
        for (int i = 0; i < count; i++)
            wide[i] += x[i];
    }
    fold(p, wide, sums);
}

/* Mean and sum of squared deviations of one block, both corrected by the rounding of the first mean:
 * with d = x - m:  mean = m + sum(d)/n,  squares = sum(d^2) - sum(d)^2/n. */
static void block_moments(const row_plan *p, const float *restrict x, ptrdiff_t rows, float *scratch,
                          float *mean, float *squares)
{
    float *restrict centre = scratch, *restrict first = scratch + p->wide,
                    *restrict second = scratch + 2 * p->wide;
    block_sum(p, x, rows, first, mean);
    for (int k = 0; k < p->c; k++)
        mean[k] /= (float)rows;
    widen(p, mean, centre);
    memset(first, 0, (size_t)p->wide * sizeof(float));
    memset(second, 0, (size_t)p->wide * sizeof(float));
    for (ptrdiff_t left = rows * p->c; left > 0; left -= p->wide, x += p->wide) {
        int count = left < p->wide ? (int)left : p->wide;
        for (int i = 0; i < count; i++) {
            float d = x[i] - centre[i];
            first[i] += d;
            second[i] += d * d;
        }
    }
    fold(p, first, centre);
    fold(p, second, squares);
    for (int k = 0; k < p->c; k++) {
        squares[k] -= centre[k] * centre[k] / (float)rows;
        mean[k] += centre[k] / (float)rows;
    }
}

/* Merge the blocks' moments in order (Chan, Golub and LeVeque 1979):
 * with n = a + b and delta = mean_b - mean_a
 * mean = mean_a + delta*b/n,  squares = squares_a + squares_b + delta^2*a*b/n. */
static void merge_moments(const row_plan *p, const float *moments, double eps, float *mean, float *var,
                          float *inv_std)
{
    for (int k = 0; k < p->c; k++) {
        double centre = 0, squares = 0, seen = 0;
        for (ptrdiff_t block = 0; block < p->blocks; block++) {
            const float *m = moments + 2 * block * p->c;
            double more = (double)rows_of(p, block), n = seen + more, delta = m[k] - centre;
            centre += delta * more / n;
            squares += m[p->c + k] + delta * delta * seen * more / n;
            seen = n;
        }
        squares = squares > 0 || isnan(squares) ? squares / seen : 0;
        mean[k] = (float)centre;
        var[k] = (float)squares;
        inv_std[k] = (float)(1 / sqrt(squares + eps));
    }
}

static void block_normalise(const row_plan *p, const float *restrict x, ptrdiff_t rows,
                            const float *restrict centre, const float *restrict scale,
                            const float *restrict shift, float *restrict y)
{
    for (ptrdiff_t left = rows * p->c; left > 0; left -= p->wide, x += p->wide, y += p->wide) {
        int count = left < p->wide ? (int)left : p->wide;
        for (int i = 0; i < count; i++)
            y[i] = (x[i] - centre[i]) * scale[i] + shift[i];
    }
}

int train_norm_forward(ptrdiff_t rows, int c, const float *x, const float *gamma, const float *beta,
                       double eps, float *y, float *mean, float *var, float *inv_std, int threads)
{
    row_plan p = plan_rows(rows, c);
    size_t own = 3 * (size_t)p.wide;
    float *moments = train_floats(2 * p.blocks * c), *scratch = train_floats(own * threads);
    int failed = moments && scratch ? 0 : -1;
    if (!failed) {
        PARALLEL_FOR(threads)
        for (ptrdiff_t block = 0; block < p.blocks; block++)
            block_moments(&p, x + block * p.block_rows * c, rows_of(&p, block),
                          scratch + own * train_worker(), moments + 2 * block * c,
                          moments + (2 * block + 1) * c);
        merge_moments(&p, moments, eps, mean, var, inv_std);
        float *centre = scratch, *scale = scratch + p.wide, *shift = scratch + 2 * p.wide;
        widen(&p, mean, centre);
        widen(&p, beta, shift);
        for (int i = 0; i < p.wide; i++)
            scale[i] = gamma[i % c] * inv_std[i % c];
        PARALLEL_FOR(threads)
        for (ptrdiff_t block = 0; block < p.blocks; block++) {
            ptrdiff_t start = block * p.block_rows * c;
            block_normalise(&p, x + start, rows_of(&p, block), centre, scale, shift, y + start);
        }
    }
    free(moments);
    free(scratch);
    return failed;
}

/* first[k] = sum of dy, second[k] = sum of dy * (x - mean) over the rows of one block. */
static void block_products(const row_plan *p, const float *restrict dy, const float *restrict x,
                           ptrdiff_t rows, const float *mean, float *restrict scratch, float *first,
                           float *second)
{
    float *restrict centre = scratch, *restrict one = scratch + p->wide,
                    *restrict two = scratch + 2 * p->wide;
    widen(p, mean, centre);
    memset(one, 0, (size_t)p->wide * sizeof(float));
    memset(two, 0, (size_t)p->wide * sizeof(float));
    for (ptrdiff_t left = rows * p->c; left > 0; left -= p->wide, x += p->wide, dy += p->wide) {
        int count = left < p->wide ? (int)left : p->wide;
        for (int i = 0; i < count; i++) {
            one[i] += dy[i];
            two[i] += dy[i] * (x[i] - centre[i]);
        }
    }
    fold(p, one, first);
    fold(p, two, second);
}

/* dx = a*dy - b*(x - mean) - d */
static void block_dx(const row_plan *p, const float *restrict dy, const float *restrict x, ptrdiff_t rows,
                     const float *restrict centre, const float *restrict a, const float *restrict b,
                     const float *restrict d, float *restrict dx)
{
    for (ptrdiff_t left = rows * p->c; left > 0;
         left -= p->wide, x += p->wide, dy += p->wide, dx += p->wide) {
        int count = left < p->wide ? (int)left : p->wide;
        for (int i = 0; i < count; i++)
            dx[i] = a[i] * dy[i] - b[i] * (x[i] - centre[i]) - d[i];
    }
}

/* sum over the blocks, in order, of entry k; the blocks' entries lie `pitch` floats apart. */
static double ordered_sum(const row_plan *p, const float *values, ptrdiff_t pitch)
{
    double sum = 0;
    for (ptrdiff_t block = 0; block < p->blocks; block++)
        sum += values[block * pitch];
    return sum;
}

/* The factors of block_dx: with s = 1/std, a = gamma*s, b = a*s*dgamma/n, d = a*dbeta/n. */
static void dx_factors(const row_plan *p, const float *inv_std, const float *gamma, const float *dgamma,
                       const float *dbeta, float *a, float *b, float *d)
{
    for (int i = 0; i < p->wide; i++) {
        int k = i % p->c;
        a[i] = gamma[k] * inv_std[k];
        b[i] = a[i] * inv_std[k] * dgamma[k] / (float)p->rows;
        d[i] = a[i] * dbeta[k] / (float)p->rows;
    }
}

/* With s = 1/std and n rows: dbeta = sum(dy), dgamma = s * sum(dy * (x - mean)),
 * dx = gamma*s * (dy - dbeta/n - (x - mean) * s * dgamma/n). */
int train_norm_backward(ptrdiff_t rows, int c, const float *dy, const float *x, const float *mean,
                        const float *inv_std, const float *gamma, float *dx, float *dgamma, float *dbeta,
                        int threads)
{
    row_plan p = plan_rows(rows, c);
    size_t own = 4 * (size_t)p.wide;
    float *sums = train_floats(2 * p.blocks * c), *scratch = train_floats(own * threads);
    int failed = sums && scratch ? 0 : -1;
    if (!failed) {
        PARALLEL_FOR(threads)
        for (ptrdiff_t block = 0; block < p.blocks; block++) {
            ptrdiff_t start = block * p.block_rows * c;
            block_products(&p, dy + start, x + start, rows_of(&p, block), mean,
                           scratch + own * train_worker(), sums + 2 * block * c, sums + (2 * block + 1) * c);
        }
        for (int k = 0; k < c; k++) {
            dbeta[k] = (float)ordered_sum(&p, sums + k, 2 * c);
            dgamma[k] = (float)(inv_std[k] * ordered_sum(&p, sums + c + k, 2 * c));
        }
        float *centre = scratch, *a = centre + p.wide, *b = a + p.wide, *d = b + p.wide;
        widen(&p, mean, centre);
        dx_factors(&p, inv_std, gamma, dgamma, dbeta, a, b, d);
        PARALLEL_FOR(threads)
        for (ptrdiff_t block = 0; block < p.blocks; block++) {
            ptrdiff_t start = block * p.block_rows * c;
            block_dx(&p, dy + start, x + start, rows_of(&p, block), centre, a, b, d, dx + start);
        }
    }
    free(sums);
    free(scratch);
    return failed;
}

int train_sum_rows(ptrdiff_t rows, int c, const float *x, float *sums, int threads)
{
    row_plan p = plan_rows(rows, c);
    float *partial = train_floats(p.blocks * c), *scratch = train_floats((size_t)p.wide * threads);
    int failed = partial && scratch ? 0 : -1;
    if (!failed) {
        PARALLEL_FOR(threads)
        for (ptrdiff_t block = 0; block < p.blocks; block++)
            block_sum(&p, x + block * p.block_rows * c, rows_of(&p, block), scratch + p.wide * train_worker(),
                      partial + block * c);
        for (int k = 0; k < c; k++)
            sums[k] = (float)ordered_sum(&p, partial + k, c);
    }
    free(partial);
    free(scratch);
    return failed;
}

void train_add_bias(ptrdiff_t rows, int c, float *y, const float *bias, int threads)
{
    row_plan p = plan_rows(rows, c);
    PARALLEL_FOR(threads)
    for (ptrdiff_t block = 0; block < p.blocks; block++) {
        float *row = y + block * p.block_rows * c;
        for (ptrdiff_t left = rows_of(&p, block); left > 0; left--, row += c)
            for (int k = 0; k < c; k++)
                row[k] += bias[k];
    }
}
