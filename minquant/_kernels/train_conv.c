/* Direct convolution on NHWC: padding, packing, cutting into work for the threads.
 *
 * No im2col buffer: each job copies a zero-padded window of one image (WINDOW_FLOATS at most, or one
 * output row), on which a kernel row of an output pixel is contiguous, and runs a micro-kernel over it.
 * The gradient of the input is the same correlation with the kernel flipped and its channels swapped,
 * one sub-kernel per position of a pixel inside the stride. */
#include <stdlib.h>
#include "train.h"
#include "train_conv.h"

/* A batch is cut into at least this many jobs where it has as many output rows. */
enum { LEAST_UNITS = 16 };

/* One correlation over a batch: images of h x w with c of `pitch` channels each, windows that start at
 * (row, col) and move by step_h, step_w; the results go to y, strides as in `correlation`. */
typedef struct {
    const float *x, *weights;
    float *y;
    ptrdiff_t y_image, y_row, y_pixel;
    int n, h, w, pitch, c, row, col, step_h, step_w, kh, kw, oh, ow, o;
} batch_correlation;

/* Rows [first, first + rows) of output of one image; `window` is scratch. */
static void correlate_band(const conv_isa *k, const batch_correlation *b, int image, int first, int rows,
                           float *window)
{
    int height = (rows - 1) * b->step_h + b->kh, width = (b->ow - 1) * b->step_w + b->kw;
    int row = b->row + first * b->step_h;
    const float *x = b->x + (ptrdiff_t)image * b->h * b->w * b->pitch;
    if (b->pitch == b->c && b->col == 0 && width <= b->w && row >= 0 && row + height <= b->h) {
        x += (ptrdiff_t)row * b->w * b->c;
        width = b->w;
    } else {
        conv_window(window, x, b->h, b->w, b->pitch, b->c, row, height, b->col, width);
        x = window;
    }
    correlation job = {
        .x = x,
        .weights = b->weights,
        .y = b->y + image * b->y_image + first * b->y_row,
        .x_step = (ptrdiff_t)b->step_h * width * b->c,
        .x_row = (ptrdiff_t)width * b->c,
        .x_pixel = (ptrdiff_t)b->step_w * b->c,
        .y_row = b->y_row,
        .y_pixel = b->y_pixel,
        .oh = rows,
        .ow = b->ow,
        .kh = b->kh,
        .kc = b->kw * b->c,
        .o = b->o,
    };
    k->correlate(&job);
}

static int correlate_batch(const conv_isa *k, const batch_correlation *b, int threads)
{
    size_t width = (size_t)((b->ow - 1) * b->step_w + b->kw) * b->c;
    int fit = (int)(WINDOW_FLOATS / at_least((int)width, 1)) - b->kh;
    int band = at_most(b->oh, at_least(fit / b->step_h + 1, 1));
    band = at_most(band, at_least(b->n * b->oh / LEAST_UNITS, 1));
    int bands = (b->oh + band - 1) / band;
    size_t window = width * ((size_t)(band - 1) * b->step_h + b->kh) + 16;
    float *scratch = train_floats(window * threads);
    if (!scratch)
        return -1;
    PARALLEL_FOR(threads)
    for (int unit = 0; unit < b->n * bands; unit++) {
        int first = unit % bands * band;
        correlate_band(k, b, unit / bands, first, at_most(band, b->oh - first),
                       scratch + window * train_worker());
    }
    free(scratch);
    return 0;
}

int train_conv_forward(const conv_shape *s, const float *x, const float *w, float *y, int threads)
{
    const conv_isa *k = conv_chosen_isa();
    int c = s->c / s->groups, o = s->o / s->groups, rows = s->kh * s->kw * c, failed = 0;
    float *packed = train_floats(rows * conv_padded(k, o));
    if (!packed)
        return -1;
    for (int g = 0; g < s->groups && !failed; g++) {
        k->pack(w + (ptrdiff_t)g * o, s->o, rows, o, packed, 0, rows);
        batch_correlation b = {
            .x = x + (ptrdiff_t)g * c,
            .weights = packed,
            .y = y + (ptrdiff_t)g * o,
            .y_image = (ptrdiff_t)s->oh * s->ow * s->o,
            .y_row = (ptrdiff_t)s->ow * s->o,
            .y_pixel = s->o,
            .n = s->n,
            .h = s->h,
            .w = s->w,
            .pitch = s->c,
            .c = c,
            .row = -s->pad_top,
            .col = -s->pad_left,
            .step_h = s->stride_h,
            .step_w = s->stride_w,
            .kh = s->kh,
            .kw = s->kw,
            .oh = s->oh,
            .ow = s->ow,
            .o = o,
        };
        failed = correlate_batch(k, &b, threads);
    }
    free(packed);
    return failed;
}

/* Along one axis, the input positions i with (i + pad) % stride == phase see the taps phase,
 * phase + stride, phase + 2*stride, ... */
typedef struct {
    int first, count, taps, start;
} axis_phase;

/* first: smallest such i; count: how many below `size`; start: where its window begins in dy, for
 * dx[i] = sum over t of dy[q - t] * w[phase + stride*t] with q = (i + pad - phase) / stride. */
static axis_phase phase_of(int phase, int stride, int pad, int size, int kernel)
{
    axis_phase a;
    a.first = ((phase - pad) % stride + stride) % stride;
    a.count = a.first < size ? (size - a.first + stride - 1) / stride : 0;
    a.taps = phase < kernel ? (kernel - phase + stride - 1) / stride : 0;
    a.start = (a.first + pad - phase) / stride - (a.taps - 1);
    return a;
}

/* The weights of one phase of one group, flipped, inputs and outputs swapped: rows (i, j, o), columns c. */
static void flip_weights(const conv_shape *s, const float *w, int g, int phase_h, int phase_w, int kh, int kw,
                         float *to)
{
    int c = s->c / s->groups, o = s->o / s->groups;
    for (int i = kh - 1; i >= 0; i--)
        for (int j = kw - 1; j >= 0; j--, to += (ptrdiff_t)o * c) {
            ptrdiff_t tap = (ptrdiff_t)(phase_h + i * s->stride_h) * s->kw + phase_w + j * s->stride_w;
            const float *from = w + tap * c * s->o + (ptrdiff_t)g * o;
            for (int in = 0; in < c; in++)
                for (int out = 0; out < o; out++)
                    to[(ptrdiff_t)out * c + in] = from[(ptrdiff_t)in * s->o + out];
        }
}

static int dx_phase(const conv_isa *k, const conv_shape *s, const float *dy, const float *w, float *dx, int g,
                    int phase_h, int phase_w, float *flipped, float *packed, int threads)
{
    int c = s->c / s->groups, o = s->o / s->groups;
    axis_phase v = phase_of(phase_h, s->stride_h, s->pad_top, s->h, s->kh);
    axis_phase u = phase_of(phase_w, s->stride_w, s->pad_left, s->w, s->kw);
    if (!v.taps || !u.taps) /* no output sees these pixels: an empty sum, one wide */
        v.taps = u.taps = 0;
    if (!v.count || !u.count)
        return 0;
    int rows = v.taps * u.taps * o;
    flip_weights(s, w, g, phase_h, phase_w, v.taps, u.taps, flipped);
    k->pack(flipped, c, rows, c, packed, 0, rows);
    batch_correlation b = {
        .x = dy + (ptrdiff_t)g * o,
        .weights = packed,
        .y = dx + ((ptrdiff_t)v.first * s->w + u.first) * s->c + (ptrdiff_t)g * c,
        .y_image = (ptrdiff_t)s->h * s->w * s->c,
        .y_row = (ptrdiff_t)s->stride_h * s->w * s->c,
        .y_pixel = (ptrdiff_t)s->stride_w * s->c,
        .n = s->n,
        .h = s->oh,
        .w = s->ow,
        .pitch = s->o,
        .c = o,
        .row = v.start,
        .col = u.start,
        .step_h = 1,
        .step_w = 1,
        .kh = v.taps,
        .kw = u.taps,
        .oh = v.count,
        .ow = u.count,
        .o = c,
    };
    return correlate_batch(k, &b, threads);
}

int train_conv_dx(const conv_shape *s, const float *dy, const float *w, float *dx, int threads)
{
    const conv_isa *k = conv_chosen_isa();
    int c = s->c / s->groups, o = s->o / s->groups, failed = 0;
    float *flipped = train_floats((size_t)s->kh * s->kw * c * o),
          *packed = train_floats(s->kh * s->kw * o * conv_padded(k, c));
    if (!flipped || !packed)
        failed = -1;
    for (int unit = 0; unit < s->groups * s->stride_h * s->stride_w && !failed; unit++) {
        int phase = unit % (s->stride_h * s->stride_w);
        failed = dx_phase(k, s, dy, w, dx, unit / (s->stride_h * s->stride_w), phase / s->stride_w,
                          phase % s->stride_w, flipped, packed, threads);
    }
    free(flipped);
    free(packed);
    return failed;
}

int train_matmul(int m, int k, int n, const float *a, const float *b, float *y, int threads)
{
    /* a 1 x 1 convolution of m pixels: rows of MATMUL_WIDTH pixels, then one row of the rest */
    enum { MATMUL_WIDTH = 8 };
    int whole = m / MATMUL_WIDTH * MATMUL_WIDTH, failed = 0;
    conv_shape s = {.n = 1,
                    .h = m / MATMUL_WIDTH,
                    .w = MATMUL_WIDTH,
                    .c = k,
                    .kh = 1,
                    .kw = 1,
                    .o = n,
                    .oh = m / MATMUL_WIDTH,
                    .ow = MATMUL_WIDTH,
                    .stride_h = 1,
                    .stride_w = 1,
                    .groups = 1};
    if (whole)
        failed = train_conv_forward(&s, a, b, y, threads);
    s.h = s.oh = 1;
    s.w = s.ow = m - whole;
    if (m > whole && !failed)
        failed = train_conv_forward(&s, a + (ptrdiff_t)whole * k, b, y + (ptrdiff_t)whole * n, threads);
    return failed;
}
