/* Gradient of the convolution weights: a reduction over all output pixels of the batch.
 *
 * The batch is cut into DW_BLOCKS runs of images (fewer for fewer images), however many threads there
 * are; each block fills its own partial sum, kh*kw*c rows of o floats rounded up to whole vectors, and
 * the partial sums are added in the order of the blocks. */
#include <stdlib.h>
#include <string.h>
#include "train.h"
#include "train_conv.h"

/* A job takes about DW_PIXELS pixels, several images where these are small: a panel of dy then stays in
 * the first-level cache and each partial sum is loaded and stored once per that many products. */
enum { DW_PIXELS = 256, DW_BLOCKS = 8 };

/* How the work is cut: `images` at a time, `band` output rows of each, a window of height x width x c. */
typedef struct {
    int c, o, images, band, height, width, block, blocks;
    size_t window, panels, partial;
} dw_plan;

static dw_plan plan_dw(const conv_isa *k, const conv_shape *s)
{
    dw_plan p = {.c = s->c / s->groups, .o = s->o / s->groups};
    p.block = (s->n + DW_BLOCKS - 1) / DW_BLOCKS;
    p.blocks = (s->n + p.block - 1) / p.block;
    p.band = at_most(s->oh, (DW_PIXELS + s->ow - 1) / s->ow);
    p.images = at_most(p.block, at_least(DW_PIXELS / (p.band * s->ow), 1));
    p.height = (p.band - 1) * s->stride_h + s->kh;
    p.width = (s->ow - 1) * s->stride_w + s->kw;
    p.window = (size_t)p.height * p.width * p.c;
    p.images = at_most(p.images, at_least((int)(WINDOW_FLOATS / p.window), 1));
    p.panels = (size_t)p.images * p.band * s->ow * conv_padded(k, p.o);
    p.partial = (size_t)s->kh * s->kw * p.c * conv_padded(k, p.o);
    return p;
}

/* Add rows [first, first + rows) of output of some images, group g, to the partial sum. */
static void dw_job(const conv_isa *k, const conv_shape *s, const dw_plan *p, const float *x, const float *dy,
                   int g, int image, int images, int first, int rows, float *scratch, float *partial)
{
    float *panels = scratch + p->window * p->images;
    int pixels = rows * s->ow;
    for (int m = 0; m < images; m++) {
        const float *input = x + (ptrdiff_t)(image + m) * s->h * s->w * s->c + (ptrdiff_t)g * p->c;
        const float *grad =
            dy + ((ptrdiff_t)(image + m) * s->oh + first) * s->ow * s->o + (ptrdiff_t)g * p->o;
        conv_window(scratch + m * p->window, input, s->h, s->w, s->c, p->c, first * s->stride_h - s->pad_top,
                    (rows - 1) * s->stride_h + s->kh, -s->pad_left, p->width);
        k->pack(grad, s->o, pixels, p->o, panels, m * pixels, images * pixels);
    }
    correlation_dw job = {
        .x = scratch,
        .dy = panels,
        .dw = partial,
        .x_image = (ptrdiff_t)p->window,
        .x_step = (ptrdiff_t)s->stride_h * p->width * p->c,
        .x_row = (ptrdiff_t)p->width * p->c,
        .x_pixel = (ptrdiff_t)s->stride_w * p->c,
        .images = images,
        .oh = rows,
        .ow = s->ow,
        .kh = s->kh,
        .kc = s->kw * p->c,
        .o = p->o,
    };
    k->correlate_dw(&job);
}

static void dw_block(const conv_isa *k, const conv_shape *s, const dw_plan *p, const float *x,
                     const float *dy, int g, int block, float *scratch, float *partial)
{
    int end = at_most((block + 1) * p->block, s->n);
    memset(partial, 0, p->partial * sizeof(float));
    for (int image = block * p->block; image < end; image += p->images)
        for (int first = 0; first < s->oh; first += p->band)
            dw_job(k, s, p, x, dy, g, image, at_most(p->images, end - image), first,
                   at_most(p->band, s->oh - first), scratch, partial);
}

/* dw of group g: the partial sums added in order, without the padding of their rows. */
static void add_partials(const conv_isa *k, const conv_shape *s, const dw_plan *p, int g, float *partials,
                         float *dw)
{
    size_t pitch = conv_padded(k, p->o);
    for (int block = 1; block < p->blocks; block++)
        for (size_t i = 0; i < p->partial; i++)
            partials[i] += partials[block * p->partial + i];
    for (size_t row = 0; row < p->partial / pitch; row++)
        memcpy(dw + row * s->o + (size_t)g * p->o, partials + row * pitch, (size_t)p->o * sizeof(float));
}

int train_conv_dw(const conv_shape *s, const float *x, const float *dy, float *dw, int threads)
{
    const conv_isa *k = conv_chosen_isa();
    dw_plan p = plan_dw(k, s);
    size_t scratch_size = p.window * p.images + p.panels;
    float *partials = train_floats(p.partial * p.blocks), *scratch = train_floats(scratch_size * threads);
    int failed = partials && scratch ? 0 : -1;
    for (int g = 0; g < s->groups && !failed; g++) {
        PARALLEL_FOR(threads)
        for (int block = 0; block < p.blocks; block++)
            dw_block(k, s, &p, x, dy, g, block, scratch + scratch_size * train_worker(),
                     partials + p.partial * block);
        add_partials(k, s, &p, g, partials, dw);
    }
    free(partials);
    free(scratch);
    return failed;
}
