/* Depthwise convolution, pooling, addition, quantization: rows of output shared among threads. */
#include "conv.h"
#include "gemm.h"
#include <string.h>

static size_t element(const int_options *o) { return o->q ? 1 : sizeof(int32_t); }

typedef struct {
    const int_isa *isa;
    const int_window *s;
    const int_taps *taps;
    const uint8_t *x;
    ptrdiff_t line;
    void *out;
    const int_options *o;
} image_job;

static int depthwise_row(const void *context, int y, int thread)
{
    const image_job *j = context;
    size_t row = (size_t)j->s->out_w * (size_t)j->s->channels * element(j->o);
    (void)thread;
    int_lines lines = {.pixels = j->s->out_w,
                       .lines = 1,
                       .x = j->x + (ptrdiff_t)y * j->s->stride_h * j->line,
                       .step = (ptrdiff_t)j->s->stride_w * j->s->channels,
                       .out = (uint8_t *)j->out + (size_t)y * row};
    (*j->isa->loops)->depthwise(j->taps, &lines, j->o->q);
    return 0;
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
            image_job job = {isa, s, &taps, region, line, (uint8_t *)out + (size_t)i * image, options};
            int_share(s->out_h, int_team(options->threads, s->out_h), depthwise_row, &job);
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

typedef struct {
    const int_isa *isa;
    const int_window *s;
    const uint8_t *x;
    void *out;
    const int_options *o;
    int32_t *sums; /* of each thread */
} pool_job;

static int max_pool_row(const void *context, int row, int thread)
{
    const pool_job *j = context;
    const uint8_t *pixels[INT_MAX_TAPS];
    int lowest = j->o->is_signed ? 128 : 0, c = j->s->channels;
    uint8_t *to = (uint8_t *)j->out + (ptrdiff_t)row * j->s->out_w * c;
    (void)thread;
    memset(to, lowest, (size_t)j->s->out_w * (size_t)c);
    for (int col = 0; col < j->s->out_w; col++, to += c)
        for (int i = 0, count = window_pixels(j->s, j->x, row, col, pixels); i < count; i++)
            (*j->isa->loops)->maximum(pixels[i], c, lowest, to);
    return 0;
}

int int_max_pool(const int_isa *isa, const int_window *s, const uint8_t *x, uint8_t *out,
                 const int_options *options)
{
    pool_job job = {isa, s, x, out, options, NULL};
    int rows = s->images * s->out_h;
    return int_share(rows, int_team(options->threads, rows), max_pool_row, &job);
}

static int sum_pool_row(const void *context, int row, int thread)
{
    const pool_job *j = context;
    const uint8_t *pixels[INT_MAX_TAPS];
    int c = j->s->channels;
    int32_t *sums = j->sums + (ptrdiff_t)thread * int_up(c, INT_BLOCK);
    for (int col = 0; col < j->s->out_w; col++) {
        memset(sums, 0, (size_t)c * sizeof *sums);
        for (int i = 0, count = window_pixels(j->s, j->x, row, col, pixels); i < count; i++)
            (*j->isa->loops)->add_pixel(pixels[i], c, j->o->is_signed, sums);
        (*j->isa->loops)->finish(j->o->q, sums, c, j->out, ((ptrdiff_t)row * j->s->out_w + col) * c);
    }
    return 0;
}

int int_sum_pool(const int_isa *isa, const int_window *s, const uint8_t *x, void *out,
                 const int_options *options)
{
    int rows = s->images * s->out_h, threads = int_team(options->threads, rows);
    size_t each = (size_t)int_up(s->channels, INT_BLOCK) * sizeof(int32_t);
    pool_job job = {isa, s, x, out, options, int_alloc(each * (size_t)threads)};
    if (!job.sums)
        return -1;
    int_share(rows, threads, sum_pool_row, &job);
    int_free(job.sums);
    return 0;
}

/* Where part i of `parts` begins, a multiple of INT_BLOCK or the end. */
static ptrdiff_t part(ptrdiff_t count, int i, int parts)
{
    ptrdiff_t blocks = (count + INT_BLOCK - 1) / INT_BLOCK, place = blocks * i / parts * INT_BLOCK;
    return place < count ? place : count;
}

typedef struct {
    const int_isa *isa;
    const void *factors; /* int_addition or int_requantization */
    ptrdiff_t count;
    int period, parts;
    const void *a, *b;
    uint8_t *out;
} parts_job;

static int add_part(const void *context, int i, int thread)
{
    const parts_job *j = context;
    (void)thread;
    (*j->isa->loops)
        ->add(j->factors, part(j->count, i, j->parts), part(j->count, i + 1, j->parts), j->period, j->a, j->b,
              j->out);
    return 0;
}

void int_add(const int_isa *isa, const int_addition *s, ptrdiff_t count, int period, const uint8_t *a,
             const uint8_t *b, uint8_t *out, int threads)
{
    threads = int_team(threads, threads);
    int_share(threads, threads, add_part, &(parts_job){isa, s, count, period, threads, a, b, out});
}

static int quantize_part(const void *context, int i, int thread)
{
    const parts_job *j = context;
    (void)thread;
    (*j->isa->loops)
        ->quantize(j->factors, part(j->count, i, j->parts), part(j->count, i + 1, j->parts), j->period, j->a,
                   j->out);
    return 0;
}

void int_quantize(const int_isa *isa, const int_requantization *q, ptrdiff_t count, int period,
                  const float *x, uint8_t *out, int threads)
{
    threads = int_team(threads, threads);
    int_share(threads, threads, quantize_part, &(parts_job){isa, q, count, period, threads, x, NULL, out});
}
