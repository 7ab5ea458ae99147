/* Convolution of NHWC codes as matrix products, without im2col.
 *
 * In an image with its padding around it, the kernel_w * channels inputs of one kernel row lie side by side,
 * and neighbouring outputs begin stride_w * channels further on. So every kernel row is a segment of a
 * product whose rows overlap in memory. With groups, only the channels of one tap lie side by side: a segment
 * is one tap. */
#include "conv.h"
#include "gemm.h"
#include <string.h>

static int at_least_0(int a) { return a > 0 ? a : 0; }

void conv_pad_image(const int_window *s, const uint8_t *image, const int_options *o, uint8_t *to)
{
    int width = conv_reach_w(s), left = int_min(s->pad_left, width), c = s->channels;
    int used = int_min(s->width, at_least_0(width - left)), right = width - left - used;
    int fill = (uint8_t)int_shift(o);
    for (int y = 0; y < conv_reach_h(s); y++, to += (ptrdiff_t)width * c) {
        int h = y - s->pad_top;
        if (h < 0 || h >= s->height) {
            memset(to, fill, (size_t)width * (size_t)c);
            continue;
        }
        memset(to, fill, (size_t)left * (size_t)c);
        int_copy_codes(image + (ptrdiff_t)h * s->width * c, (size_t)used * (size_t)c, o->is_signed,
                       to + (ptrdiff_t)left * c);
        memset(to + (ptrdiff_t)(left + used) * c, fill, (size_t)right * (size_t)c);
    }
}

/* What all images of a call share. */
typedef struct {
    const int_window *s;
    int_weights *const *w;
    const int_options *options;
    int32_t **start; /* one per group */
    const uint8_t *x;
    uint8_t *out, *padded; /* padded: one region per thread, or NULL: images need no copy */
    size_t region;
    int threads; /* of one image */
} conv_job;

static int run_image(const void *context, int image, int thread)
{
    const conv_job *job = context;
    const int_window *s = job->s;
    ptrdiff_t pixel = s->channels, line = pixel * s->width, offsets[INT_MAX_TAPS];
    const uint8_t *x = job->x + (ptrdiff_t)image * s->height * line;
    if (job->padded) {
        uint8_t *region = job->padded + (size_t)thread * job->region;
        conv_pad_image(s, x, job->options, region);
        x = region;
        line = pixel * conv_reach_w(s);
    }
    int taps = s->groups > 1 ? s->kernel_w : 1;
    for (int i = 0; i < s->kernel_h * taps; i++)
        offsets[i] = i / taps * line + i % taps * pixel;
    size_t size = job->options->q ? 1 : sizeof(int32_t), rows = (size_t)s->out_h * (size_t)s->out_w;
    for (int g = 0; g < s->groups; g++) {
        int first = g * (s->columns / s->groups);
        size_t place = (size_t)image * rows * (size_t)s->columns;
        int_product p = {.w = job->w[g],
                         .a = x + g * (s->channels / s->groups),
                         .row = s->stride_w * pixel,
                         .line = s->stride_h * line,
                         .rows = (int)rows,
                         .run_rows = s->out_w,
                         .images = 1,
                         .offsets = offsets,
                         .start = job->start[g],
                         .q = job->options->q,
                         .first = first,
                         .out = job->out + place * size,
                         .out_line = (ptrdiff_t)s->out_w * s->columns,
                         .out_row = s->columns};
        int_join_runs(&p);
        if (int_product_run(&p, job->threads))
            return -1;
    }
    return 0;
}

/* Images are shared out where there is one for every thread, else the rows of each image. */
static int run_images(conv_job *job)
{
    int threads = int_team(job->options->threads, job->options->threads), apart = job->s->images >= threads;
    job->threads = apart ? 1 : threads;
    return int_share(job->s->images, apart ? threads : 1, run_image, job);
}

/* Whether the kernels may read an image where it lies: no padding, nothing to convert, no read behind its
 * end. */
static int reads_in_place(const int_window *s, const int_weights *w, const int_options *o)
{
    int last = s->pad_top || s->pad_left || conv_reach_h(s) > s->height || conv_reach_w(s) > s->width;
    return !o->is_signed && !last && w->padded == w->length;
}

int int_conv(const int_window *s, int_weights *const *w, const uint8_t *x, void *out,
             const int_options *options)
{
    if (!s->out_h || !s->out_w || !s->images || !s->columns)
        return 0;
    if (s->kernel_h * s->kernel_w * s->stride_h * s->stride_w * s->groups == 1 && !s->pad_top &&
        !s->pad_left && s->out_h == s->height && s->out_w == s->width)
        return int_gemm(w[0], s->images * s->height * s->width, x, s->channels, out, s->columns, options);
    conv_job job = {.s = s, .w = w, .options = options, .x = x, .out = out};
    int failed = 0;
    job.start = int_alloc((size_t)s->groups * sizeof *job.start);
    if (!job.start)
        return -1;
    for (int g = 0; g < s->groups; g++)
        failed |= int_product_start(w[g], int_shift(options), &job.start[g]);
    if (!reads_in_place(s, w[0], options)) {
        job.region = (size_t)int_up(conv_reach_h(s) * conv_reach_w(s) * s->channels + w[0]->padded, 64);
        job.padded = int_alloc(job.region * (size_t)(s->images >= options->threads ? options->threads : 1));
        failed |= !job.padded;
    }
    failed = failed || run_images(&job);
    for (int g = 0; g < s->groups; g++)
        int_free(job.start[g]);
    int_free(job.padded);
    int_free(job.start);
    return failed ? -1 : 0;
}
