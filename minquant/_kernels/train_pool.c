/* Pooling, one image per job. */
#include <math.h>
#include <string.h>
#include "train.h"

/* First float of the window position `index` that output pixel (i, j) sees, within an image. */
static ptrdiff_t input_of(const pool_shape *s, int i, int j, int index)
{
    int row = i * s->stride + index / s->size, col = j * s->stride + index % s->size;
    return ((ptrdiff_t)row * s->w + col) * s->c;
}

static void keep_larger(int c, const float *restrict x, int index, float *restrict y,
                        unsigned char *restrict winner)
{
    for (int k = 0; k < c; k++) {
        /* no branch, for it would be mispredicted: larger is 0 or all ones */
        unsigned char larger = (unsigned char)-(x[k] > y[k]);
        winner[k] = (unsigned char)((larger & index) | (~larger & winner[k]));
        y[k] = x[k] > y[k] ? x[k] : y[k];
    }
}

static void maxpool_image(const pool_shape *s, const float *x, float *y, unsigned char *winner)
{
    for (int i = 0; i < s->oh; i++)
        for (int j = 0; j < s->ow; j++, y += s->c, winner += s->c) {
            memcpy(y, x + input_of(s, i, j, 0), (size_t)s->c * sizeof(float));
            memset(winner, 0, (size_t)s->c);
            for (int index = 1; index < s->size * s->size; index++)
                keep_larger(s->c, x + input_of(s, i, j, index), index, y, winner);
        }
}

void train_maxpool_forward(const pool_shape *s, const float *x, float *y, unsigned char *winner, int threads)
{
    ptrdiff_t in = (ptrdiff_t)s->h * s->w * s->c, out = (ptrdiff_t)s->oh * s->ow * s->c;
    PARALLEL_FOR(threads)
    for (int image = 0; image < s->n; image++)
        maxpool_image(s, x + image * in, y + image * out, winner + image * out);
}

static void add_where(int c, const float *restrict dy, const unsigned char *restrict winner, int index,
                      float *restrict dx)
{
    for (int k = 0; k < c; k++)
        dx[k] += (float)(winner[k] == index) * dy[k];
}

static void maxpool_image_dx(const pool_shape *s, const float *dy, const unsigned char *winner, float *dx)
{
    memset(dx, 0, (size_t)s->h * s->w * s->c * sizeof(float));
    for (int i = 0; i < s->oh; i++)
        for (int j = 0; j < s->ow; j++, dy += s->c, winner += s->c)
            for (int index = 0; index < s->size * s->size; index++)
                add_where(s->c, dy, winner, index, dx + input_of(s, i, j, index));
}

void train_maxpool_backward(const pool_shape *s, const float *dy, const unsigned char *winner, float *dx,
                            int threads)
{
    ptrdiff_t in = (ptrdiff_t)s->h * s->w * s->c, out = (ptrdiff_t)s->oh * s->ow * s->c;
    PARALLEL_FOR(threads)
    for (int image = 0; image < s->n; image++)
        maxpool_image_dx(s, dy + image * out, winner + image * out, dx + image * in);
}

/* to += scale * from */
static void add_scaled(int c, const float *restrict from, float scale, float *restrict to)
{
    for (int k = 0; k < c; k++)
        to[k] += scale * from[k];
}

void train_avgpool_forward(const pool_shape *s, const float *x, float *y, int threads)
{
    ptrdiff_t in = (ptrdiff_t)s->h * s->w * s->c, out = (ptrdiff_t)s->oh * s->ow * s->c;
    float share = 1 / (float)(s->size * s->size);
    PARALLEL_FOR(threads)
    for (int image = 0; image < s->n; image++) {
        float *pixel = y + image * out;
        memset(pixel, 0, (size_t)out * sizeof(float));
        for (int i = 0; i < s->oh; i++)
            for (int j = 0; j < s->ow; j++, pixel += s->c)
                for (int index = 0; index < s->size * s->size; index++)
                    add_scaled(s->c, x + image * in + input_of(s, i, j, index), share, pixel);
    }
}

void train_avgpool_backward(const pool_shape *s, const float *dy, float *dx, int threads)
{
    ptrdiff_t in = (ptrdiff_t)s->h * s->w * s->c, out = (ptrdiff_t)s->oh * s->ow * s->c;
    float share = 1 / (float)(s->size * s->size);
    PARALLEL_FOR(threads)
    for (int image = 0; image < s->n; image++) {
        const float *pixel = dy + image * out;
        memset(dx + image * in, 0, (size_t)in * sizeof(float));
        for (int i = 0; i < s->oh; i++)
            for (int j = 0; j < s->ow; j++, pixel += s->c)
                for (int index = 0; index < s->size * s->size; index++)
                    add_scaled(s->c, pixel, share, dx + image * in + input_of(s, i, j, index));
    }
}
