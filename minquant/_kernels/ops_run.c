/* Depthwise convolution, pooling, addition, quantization: rows of output shared among threads. */
#include "conv.h"
#include "gemm.h"
#include <string.h>
#ifdef _OPENMP
#include <omp.h>
#else
static int omp_get_thread_num(void) { return 0; }
#endif

static size_t element(const int_options *o) { return o->q ? 1 : sizeof(int32_t); }

static void depthwise_image(const int_isa *isa, const int_window *s, const int_taps *taps, const uint8_t *x,
                            ptrdiff_t line, void *out, const int_options *o, int threads)
{
    (void)threads; /* without OpenMP there is one */
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (int y = 0; y < s->out_h; y++)
        (*isa->loops)
            ->depthwise(taps, s->out_w, x + (ptrdiff_t)y * s->stride_h * line,
                        (ptrdiff_t)s->stride_w * s->channels, o->q,
                        (uint8_t *)out + (size_t)y * (size_t)s->out_w * (size_t)s->channels * element(o), 0);
}

int int_depthwise(const int_isa *isa, const int_window *s, const int16_t *levels, const int32_t *sums,
                  const uint8_t *x, void *out, const int_options *options)
{
    ptrdiff_t offsets[INT_MAX_TAPS], line = (ptrdiff_t)conv_reach_w(s) * s->channels;
    int pitch = int_up(s->channels, INT_BLOCK);
    size_t image = (size_t)s->out_h * (size_t)s->out_w * (size_t)s->channels * element(options);
    int32_t *start = int_alloc((size_t)pitch * sizeof *start);
    uint8_t *region = int_alloc((size_t)conv_reach_h(s) * (size_t)line);
    if (start && region) {
        for (int i = 0; i < s->kernel_h * s->kernel_w; i++)
            offsets[i] = i / s->kernel_w * line + i % s->kernel_w * s->channels;
        for (int c = 0; c < pitch; c++)
            start[c] =
                c >= s->channels ? 0 : (int32_t)(0u - (uint32_t)int_shift(options) * (uint32_t)sums[c]);
        int_taps taps = {levels, offsets, start, s->kernel_h * s->kernel_w, s->channels, pitch};
        for (int i = 0; i < s->images; i++) {
            conv_pad_image(s, x + (size_t)i * (size_t)s->height * (size_t)s->width * (size_t)s->channels,
                           options, region);
            depthwise_image(isa, s, &taps, region, line, (uint8_t *)out + (size_t)i * image, options,
                            int_team(options->threads, s->out_h));
        }
    }
    int failed = !start || !region;
    int_free(region);
    int_free(start);
    return failed ? -1 : 0;
}

/* The pixels inside the image of the window at output row `row` (of all images) and column `col`; their
 * number. */
static int window_pixels(const int_window *s, const uint8_t *x, int row, int col, const uint8_t **pixels)
{
    int count = 0, top = row % s->out_h * s->stride_h - s->pad_top, left = col * s->stride_w - s->pad_left;
    const uint8_t *image = x + (ptrdiff_t)(row / s->out_h) * s->height * s->width * s->channels;
    for (int h = top; h < top + s->kernel_h; h++)
        for (int w = left; w < left + s->kernel_w; w++)
            if (h >= 0 && h < s->height && w >= 0 && w < s->width)
                pixels[count++] = image + ((ptrdiff_t)h * s->width + w) * s->channels;
    return count;
}

int int_max_pool(const int_isa *isa, const int_window *s, const uint8_t *x, uint8_t *out,
                 const int_options *options)
{
    int lowest = options->is_signed ? 128 : 0, c = s->channels, rows = s->images * s->out_h;
    int threads = int_team(options->threads, rows);
    (void)threads; /* without OpenMP there is one */
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (int row = 0; row < rows; row++)
        for (int col = 0; col < s->out_w; col++) {
            const uint8_t *pixels[INT_MAX_TAPS];
            uint8_t *to = out + ((ptrdiff_t)row * s->out_w + col) * c;
            memset(to, lowest, (size_t)c);
            for (int i = 0, count = window_pixels(s, x, row, col, pixels); i < count; i++)
                (*isa->loops)->maximum(pixels[i], c, lowest, to);
        }
    return 0;
}

int int_sum_pool(const int_isa *isa, const int_window *s, const uint8_t *x, void *out,
                 const int_options *options)
{
    int c = s->channels, rows = s->images * s->out_h, threads = int_team(options->threads, rows);
    int32_t *scratch = int_alloc((size_t)int_up(c, INT_BLOCK) * sizeof *scratch * (size_t)threads);
    if (!scratch)
        return -1;
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (int row = 0; row < rows; row++)
        for (int col = 0; col < s->out_w; col++) {
            const uint8_t *pixels[INT_MAX_TAPS];
            int32_t *sums = scratch + (size_t)omp_get_thread_num() * (size_t)int_up(c, INT_BLOCK);
            memset(sums, 0, (size_t)c * sizeof *sums);
            for (int i = 0, count = window_pixels(s, x, row, col, pixels); i < count; i++)
                (*isa->loops)->add_pixel(pixels[i], c, options->is_signed, sums);
            (*isa->loops)->finish(options->q, sums, c, out, ((ptrdiff_t)row * s->out_w + col) * c);
        }
    int_free(scratch);
    return 0;
}

/* Where part i of `parts` begins, a multiple of INT_BLOCK or the end. */
static ptrdiff_t part(ptrdiff_t count, int i, int parts)
{
    ptrdiff_t blocks = (count + INT_BLOCK - 1) / INT_BLOCK, place = blocks * i / parts * INT_BLOCK;
    return place < count ? place : count;
}

void int_add(const int_isa *isa, const int_addition *s, ptrdiff_t count, int period, const uint8_t *a,
             const uint8_t *b, uint8_t *out, int threads)
{
    threads = int_team(threads, threads);
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (int i = 0; i < threads; i++)
        (*isa->loops)->add(s, part(count, i, threads), part(count, i + 1, threads), period, a, b, out);
}

void int_quantize(const int_isa *isa, const int_requantization *q, ptrdiff_t count, int period,
                  const float *x, uint8_t *out, int threads)
{
    threads = int_team(threads, threads);
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (int i = 0; i < threads; i++)
        (*isa->loops)->quantize(q, part(count, i, threads), part(count, i + 1, threads), period, x, out);
}
