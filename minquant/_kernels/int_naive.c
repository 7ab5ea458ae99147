/* The loops that define the products, for tests: no packing, no vectors, no threads. */
#include "int.h"

static int32_t value(const uint8_t *a, const int_options *o)
{
    return (o->is_signed ? (int8_t)*a : *a) - o->zero_point;
}

void int_gemm_naive(int m, int k, int n, const uint8_t *a, ptrdiff_t row, const uint8_t *codes,
                    const int8_t *levels, int32_t *out, const int_options *options)
{
    for (int i = 0; i < m; i++)
        for (int j = 0; j < n; j++) {
            int32_t acc = 0;
            for (int l = 0; l < k; l++)
                acc += value(a + i * row + l, options) * levels[codes[(size_t)l * (size_t)n + (size_t)j]];
            out[(size_t)i * (size_t)n + (size_t)j] = acc;
        }
}

/* One output of a convolution: channel `o` at (y, x); outside the image lies the zero point, which adds
 * nothing. */
static int32_t conv_at(const int_window *s, const uint8_t *image, const uint8_t *codes, const int8_t *levels,
                       int y, int x, int o, const int_options *options)
{
    int each = s->channels / s->groups, first = o / (s->columns / s->groups) * each;
    int32_t acc = 0;
    for (int i = 0; i < s->kernel_h; i++)
        for (int j = 0; j < s->kernel_w; j++) {
            int h = y * s->stride_h + i - s->pad_top, w = x * s->stride_w + j - s->pad_left;
            if (h < 0 || h >= s->height || w < 0 || w >= s->width)
                continue;
            const uint8_t *pixel = image + ((ptrdiff_t)h * s->width + w) * s->channels + first;
            const uint8_t *tap = codes + ((ptrdiff_t)(i * s->kernel_w + j) * each) * s->columns + o;
            for (int c = 0; c < each; c++)
                acc += value(pixel + c, options) * levels[tap[(ptrdiff_t)c * s->columns]];
        }
    return acc;
}

void int_conv_naive(const int_window *s, const uint8_t *x, const uint8_t *codes, const int8_t *levels,
                    int32_t *out, const int_options *options)
{
    for (int image = 0; image < s->images; image++)
        for (int y = 0; y < s->out_h; y++)
            for (int j = 0; j < s->out_w; j++)
                for (int o = 0; o < s->columns; o++)
                    *out++ = conv_at(s, x + (ptrdiff_t)image * s->height * s->width * s->channels, codes,
                                     levels, y, j, o, options);
}
