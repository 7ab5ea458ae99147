/* What the convolution driver (train_conv.c) asks of each instruction set. */
#ifndef MINQUANT_TRAIN_CONV_H
#define MINQUANT_TRAIN_CONV_H

#include <stddef.h>

/* A correlation over one window of pixels: for every pixel (i, j) < (oh, ow) and output channel n < o
 *
 *     y[i*y_row + j*y_pixel + n] = sum over r < kh, k < kc of
 *                                  x[i*x_step + r*x_row + j*x_pixel + k] * W[r*kc + k][n]
 *
 * kc = kw * c: on padded NHWC input the kw * c inputs of one kernel row lie side by side.
 * weights holds W in panels (see conv_isa.pack). */
typedef struct {
    const float *x, *weights;
    float *y;
    ptrdiff_t x_step, x_row, x_pixel, y_row, y_pixel;
    int oh, ow, kh, kc, o;
} correlation;

/* Its gradient with respect to W, added over images that lie x_image apart:
 *
 *     dw[r*kc + k][n] += sum over m < images, i < oh, j < ow of
 *                        x[m*x_image + i*x_step + r*x_row + j*x_pixel + k] * dy[(m*oh + i)*ow + j][n]
 *
 * Rows of dw hold `padded` floats; dy is packed in panels like weights, one row per pixel. */
typedef struct {
    const float *x, *dy;
    float *dw;
    ptrdiff_t x_image, x_step, x_row, x_pixel;
    int images, oh, ow, kh, kc, o;
} correlation_dw;

typedef struct {
    const char *name;
    int lanes;
    /* Pack a rows x o matrix (rows `pitch` floats apart) in panels of a few vectors: panel after panel, in
     * each panel row after row, zeros behind column o.  `total` rows are laid out per panel, this call fills
     * the rows [first, first + rows). */
    void (*pack)(const float *matrix, ptrdiff_t pitch, int rows, int o, float *packed, int first, int total);
    void (*correlate)(const correlation *job);
    void (*correlate_dw)(const correlation_dw *job);
} conv_isa;

extern const conv_isa conv_isa_generic, conv_isa_avx2, conv_isa_avx512;

/* A copied window holds at most this many floats, or one row of output pixels. */
enum { WINDOW_FLOATS = 1 << 17 };

const conv_isa *conv_chosen_isa(void);
/* Channels rounded up to whole vectors. */
size_t conv_padded(const conv_isa *k, int o);
/* Copy the rows [row, row + rows) and columns [col, col + cols) of a h x w image whose pixels are `pitch`
 * floats apart, c floats of each; zeros outside the image. */
void conv_window(float *to, const float *image, int h, int w, int pitch, int c, int row, int rows, int col,
                 int cols);

#endif
