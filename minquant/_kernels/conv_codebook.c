/* Weight-only convolution of NHWC floats: the products of conv_run.c, with float32 activations. */
#include "codebook.h"
#include "conv.h"
#include <math.h>

/* What all images of a call share: weights per group, or the floats of a depthwise convolution. */
typedef struct {
    const int_window *s;
    codebook_weights *const *w;
    const int_isa *isa;
    const float *taps;
    const float *x;
    float *out, *padded; /* padded: one region per thread, or NULL: images need no copy */
    size_t region;
    ptrdiff_t line;
    const ptrdiff_t *offsets; /* of the segments, or taps, of a row */
    int threads;              /* of one image */
} conv_job;

/* Image `i` with its padding around it. Zeros of float32 are bytes of 0, so that bytes are its channels. */
static const float *image_at(const conv_job *job, int i, int thread)
{
    const int_window *s = job->s;
    const float *image = job->x + (ptrdiff_t)i * s->height * s->width * s->channels;
    if (!job->padded)
        return image;
    int_window bytes = *s;
    bytes.channels *= (int)sizeof *image;
    float *region = job->padded + (size_t)thread * job->region;
    conv_pad_image(&bytes, (const uint8_t *)image, &(int_options){0}, (uint8_t *)region);
    return region;
}

static int run_groups(const conv_job *job, const float *image, float *out)
{
    const int_window *s = job->s;
    int failed = 0, each = s->channels / s->groups;
    for (int g = 0; g < s->groups; g++) {
        codebook_product p = {.w = job->w[g],
                              .a = image + g * each,
                              .row = (ptrdiff_t)s->stride_w * s->channels,
                              .line = s->stride_h * job->line,
                              .rows = s->out_h * s->out_w,
                              .run_rows = s->out_w,
                              .length = s->groups > 1 ? each : s->kernel_w * each,
                              .offsets = job->offsets,
                              .out = out + g * (s->columns / s->groups),
                              .out_row = s->columns};
        failed |= codebook_product_run(&p, job->threads);
    }
    return failed;
}

typedef struct {
    const conv_job *job;
    const float *image;
    float *out;
} image_job;

/* One row of outputs of a depthwise convolution. */
static int run_row(const void *context, int y, int thread)
{
    const image_job *each = context;
    const conv_job *job = each->job;
    const int_window *s = job->s;
    (void)thread;
    for (int x = 0; x < s->out_w; x++)
        (*job->isa->floats)
            ->depthwise(s->kernel_h * s->kernel_w, job->offsets, s->channels,
                        each->image + y * s->stride_h * job->line + (ptrdiff_t)x * s->stride_w * s->channels,
                        job->taps, each->out + ((ptrdiff_t)y * s->out_w + x) * s->channels);
    return 0;
}

static int run_image(const void *context, int i, int thread)
{
    const conv_job *job = context;
    const int_window *s = job->s;
    image_job each = {job, image_at(job, i, thread),
                      job->out + (ptrdiff_t)i * s->out_h * s->out_w * s->columns};
    if (job->w)
        return run_groups(job, each.image, each.out);
    return int_share(s->out_h, int_team(job->threads, s->out_h), run_row, &each);
}

static int run(conv_job *job, int threads)
{
    const int_window *s = job->s;
    int taps = job->w && s->groups == 1 ? 1 : s->kernel_w, height = conv_reach_h(s), width = conv_reach_w(s);
    ptrdiff_t offsets[INT_MAX_TAPS];
    if (!s->out_h || !s->out_w || !s->images || !s->columns)
        return 0;
    threads = int_team(threads, threads);
    int apart = s->images >= threads; /* images are shared out, else the rows of each */
    job->threads = apart ? 1 : threads;
    job->line = (ptrdiff_t)s->width * s->channels;
    if (s->pad_top || s->pad_left || height > s->height || width > s->width) {
        job->line = (ptrdiff_t)width * s->channels;
        job->region = (size_t)height * (size_t)job->line;
        job->padded =
            int_alloc(job->region * sizeof *job->padded * (size_t)(s->images >= threads ? threads : 1));
        if (!job->padded)
            return -1;
    }
    for (int i = 0; i < s->kernel_h * taps; i++)
        offsets[i] = i / taps * job->line + (ptrdiff_t)(i % taps) * s->channels;
    job->offsets = offsets;
    int failed = int_share(s->images, apart ? threads : 1, run_image, job);
    int_free(job->padded);
    return failed;
}

int codebook_conv(const int_window *s, codebook_weights *const *w, const float *x, float *out, int threads)
{
    if (s->kernel_h * s->kernel_w * s->stride_h * s->stride_w * s->groups == 1 && !s->pad_top &&
        !s->pad_left && s->out_h == s->height && s->out_w == s->width)
        return codebook_gemm(w[0], s->images * s->height * s->width, x, s->channels, out, threads);
    return run(&(conv_job){.s = s, .w = w, .x = x, .out = out}, threads);
}

int codebook_depthwise(const int_isa *isa, const int_window *s, const float *weights, const float *x,
                       float *out, int threads)
{
    return run(&(conv_job){.s = s, .isa = isa, .taps = weights, .x = x, .out = out}, threads);
}

/* One output: channel `o` at (y, x). */
static float conv_at(const int_window *s, const float *image, const uint8_t *codes, const float *book, int y,
                     int x, int o)
{
    int each = s->channels / s->groups, first = o / (s->columns / s->groups) * each;
    float acc = 0;
    for (int i = 0; i < s->kernel_h; i++)
        for (int j = 0; j < s->kernel_w; j++)
            for (int c = 0; c < each; c++, codes += s->columns) {
                int h = y * s->stride_h + i - s->pad_top, w = x * s->stride_w + j - s->pad_left;
                int inside = h >= 0 && h < s->height && w >= 0 && w < s->width;
                float a = inside ? image[((ptrdiff_t)h * s->width + w) * s->channels + first + c] : 0;
                acc = fmaf(a, book[codes[o]], acc);
            }
    return acc;
}

void codebook_conv_naive(const int_window *s, const float *x, const uint8_t *codes, const float *book,
                         float *out)
{
    for (int image = 0; image < s->images; image++, x += (ptrdiff_t)s->height * s->width * s->channels)
        for (int y = 0; y < s->out_h; y++)
            for (int j = 0; j < s->out_w; j++)
                for (int o = 0; o < s->columns; o++)
                    *out++ = conv_at(s, x, codes, book, y, j, o);
}
