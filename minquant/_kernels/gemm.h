/* A product as gemm.c runs it: a matrix product, or a convolution of one image whose rows are not copied. */
#ifndef MINQUANT_GEMM_H
#define MINQUANT_GEMM_H
#include "int_isa.h"

/* Rows come in runs of `run_rows` that lie `row` bytes apart; run r begins at a + r * line. */
typedef struct {
    const int_weights *w;
    const uint8_t *a;
    ptrdiff_t row, line;
    int rows, run_rows;
    const ptrdiff_t *offsets; /* of the segments of a row */
    const int32_t *start;     /* per column; NULL: zeros */
    const int_requantization *q;
    int first; /* column of q and out that column 0 of w is */
    void *out;
    ptrdiff_t out_row;
} int_product;

int int_product_run(const int_product *p, int threads);

/* -shift * (sum of each column's levels), to be freed by int_free; *start is NULL where shift is 0. */
int int_product_start(const int_weights *w, int shift, int32_t **start);

/* What is subtracted from activations that the kernels read as uint8. */
static inline int int_shift(const int_options *o) { return o->zero_point + (o->is_signed ? 128 : 0); }

/* to[i] = from[i] as uint8: int8 moves up by 128, which turns the top bit round. */
void int_copy_codes(const uint8_t *from, size_t count, int is_signed, uint8_t *to);

#endif
