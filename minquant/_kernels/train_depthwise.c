/* Depthwise convolution: one kh x kw kernel per channel (groups = c = o, weights kh x kw x 1 x c).
 *
 * Forward and both gradients visit the same triples (input pixel, tap, output pixel) and differ only in
 * which one of x, w, y receives the product of the other two, channel by channel. */
#include <stdlib.h>
#include <string.h>
#include "train.h"

enum { DW_BLOCKS = 8 };
typedef enum { TO_OUTPUT, TO_INPUT, TO_WEIGHT } receiver;

/* to += a * b */
static inline void multiply_add(int c, const float *restrict a, const float *restrict b, float *restrict to)
{
    for (int k = 0; k < c; k++)
        to[k] += a[k] * b[k];
}

/* All triples of one image. */
static inline void walk(const conv_shape *s, receiver to, float *x, float *w, float *y)
{
    for (int i = 0; i < s->oh; i++)
        for (int j = 0; j < s->ow; j++, y += s->c) {
            int row = i * s->stride_h - s->pad_top, col = j * s->stride_w - s->pad_left;
            for (int r = at_least(-row, 0); r < at_most(s->kh, s->h - row); r++)
                for (int q = at_least(-col, 0); q < at_most(s->kw, s->w - col); q++) {
                    float *pixel = x + ((ptrdiff_t)(row + r) * s->w + col + q) * s->c;
                    float *tap = w + (ptrdiff_t)(r * s->kw + q) * s->c;
                    if (to == TO_OUTPUT)
                        multiply_add(s->c, pixel, tap, y);
                    else if (to == TO_INPUT)
                        multiply_add(s->c, y, tap, pixel);
                    else
                        multiply_add(s->c, pixel, y, tap);
                }
        }
}

static ptrdiff_t input_size(const conv_shape *s) { return (ptrdiff_t)s->h * s->w * s->c; }
static ptrdiff_t output_size(const conv_shape *s) { return (ptrdiff_t)s->oh * s->ow * s->c; }

void train_depthwise_forward(const conv_shape *s, const float *x, const float *w, float *y, int threads)
{
    PARALLEL_FOR(threads)
    for (int image = 0; image < s->n; image++) {
        float *out = y + image * output_size(s);
        memset(out, 0, (size_t)output_size(s) * sizeof(float));
        walk(s, TO_OUTPUT, (float *)x + image * input_size(s), (float *)w, out);
    }
}

void train_depthwise_dx(const conv_shape *s, const float *dy, const float *w, float *dx, int threads)
{
    PARALLEL_FOR(threads)
    for (int image = 0; image < s->n; image++) {
        float *in = dx + image * input_size(s);
        memset(in, 0, (size_t)input_size(s) * sizeof(float));
        walk(s, TO_INPUT, in, (float *)w, (float *)dy + image * output_size(s));
    }
}

/* As in train_conv_dw.c: partial sums over fixed blocks of images, added in their order. */
int train_depthwise_dw(const conv_shape *s, const float *x, const float *dy, float *dw, int threads)
{
    int size = (s->n + DW_BLOCKS - 1) / DW_BLOCKS, blocks = (s->n + size - 1) / size;
    ptrdiff_t count = (ptrdiff_t)s->kh * s->kw * s->c;
    float *partials = train_floats(count * blocks);
    if (!partials)
        return -1;
    PARALLEL_FOR(threads)
    for (int block = 0; block < blocks; block++) {
        float *partial = partials + block * count;
        memset(partial, 0, (size_t)count * sizeof(float));
        for (int image = block * size; image < at_most((block + 1) * size, s->n); image++)
            walk(s, TO_WEIGHT, (float *)x + image * input_size(s), partial,
                 (float *)dy + image * output_size(s));
    }
    memcpy(dw, partials, (size_t)count * sizeof(float));
    for (int block = 1; block < blocks; block++)
        for (ptrdiff_t i = 0; i < count; i++)
            dw[i] += partials[block * count + i];
    free(partials);
    return 0;
}
