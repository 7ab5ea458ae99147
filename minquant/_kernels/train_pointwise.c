/* Element-wise operations. */
#include <math.h>
#include "train.h"

/* Work for one worker at a time; fixed, though nothing here depends on it. */
enum { CHUNK = 1 << 14 };

static ptrdiff_t chunks(ptrdiff_t count) { return (count + CHUNK - 1) / CHUNK; }

static ptrdiff_t chunk_end(ptrdiff_t chunk, ptrdiff_t count)
{
    return (chunk + 1) * CHUNK < count ? (chunk + 1) * CHUNK : count;
}

static void relu(const float *restrict x, float cap, float *restrict y, unsigned char *restrict mask,
                 ptrdiff_t count)
{
    int uncapped = isinf(cap) != 0;
    for (ptrdiff_t i = 0; i < count; i++) {
        float positive = x[i] < 0 ? 0 : x[i]; /* a NaN stays a NaN, as in NumPy */
        y[i] = positive > cap ? cap : positive;
        mask[i] = (x[i] > 0) & ((x[i] < cap) | uncapped);
    }
}

void train_relu_forward(ptrdiff_t count, const float *x, float cap, float *y, unsigned char *mask,
                        int threads)
{
    PARALLEL_FOR(threads)
    for (ptrdiff_t chunk = 0; chunk < chunks(count); chunk++) {
        ptrdiff_t start = chunk * CHUNK;
        relu(x + start, cap, y + start, mask + start, chunk_end(chunk, count) - start);
    }
}

static void gate(const float *restrict dy, const unsigned char *restrict mask, float *restrict dx,
                 ptrdiff_t count)
{
    for (ptrdiff_t i = 0; i < count; i++) {
        float passed = dy[i]; /* read in any case: a conditional read could not be vectorised */
        dx[i] = mask[i] ? passed : 0;
    }
}

void train_relu_backward(ptrdiff_t count, const float *dy, const unsigned char *mask, float *dx, int threads)
{
    PARALLEL_FOR(threads)
    for (ptrdiff_t chunk = 0; chunk < chunks(count); chunk++) {
        ptrdiff_t start = chunk * CHUNK;
        gate(dy + start, mask + start, dx + start, chunk_end(chunk, count) - start);
    }
}

void train_add(ptrdiff_t count, const float *a, const float *b, float *out, int threads)
{
    PARALLEL_FOR(threads)
    for (ptrdiff_t chunk = 0; chunk < chunks(count); chunk++)
        for (ptrdiff_t i = chunk * CHUNK; i < chunk_end(chunk, count); i++)
            out[i] = a[i] + b[i];
}
