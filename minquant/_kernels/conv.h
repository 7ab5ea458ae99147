/* The padded copy of an image that convolutions read. */
#ifndef MINQUANT_CONV_H
#define MINQUANT_CONV_H
#include "int_isa.h"

/* The input region that the outputs need, in pixels. */
static inline int conv_reach_h(const int_window *s) { return (s->out_h - 1) * s->stride_h + s->kernel_h; }
static inline int conv_reach_w(const int_window *s) { return (s->out_w - 1) * s->stride_w + s->kernel_w; }

/* Copy an image into the middle of such a region full of the zero point; read as uint8. */
void conv_pad_image(const int_window *s, const uint8_t *image, const int_options *o, uint8_t *to);

#endif
