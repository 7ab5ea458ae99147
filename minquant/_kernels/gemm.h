/* A product as gemm.c runs it: a matrix product, or a convolution of one image whose rows are not copied. */
#ifndef MINQUANT_GEMM_H
#define MINQUANT_GEMM_H
#include "int_isa.h"

#define INT_RUN_ROWS 112 /* of a matrix product: whole tiles of every instruction set */

/* Sums of a tile on their way to what ends them: `rows` rows from row `row` of run `run` of an image,
 * `columns` columns from column `first`; rows of acc lie `pitch` apart. */
typedef struct {
    const int32_t *acc;
    int rows, columns, pitch, first, image, run, row;
} int_sums;

/* The `rows` rows of an image come in runs of `run_rows` that lie `row` bytes apart; run r begins at a + r *
 * line, those of the next image `image` bytes further on. The results of run r begin at out + r * out_line,
 * those of its row i out_row * i further on; all of them count elements of out. */
typedef struct int_product int_product;
struct int_product {
    const int_weights *w;
    const uint8_t *a;
    ptrdiff_t row, line, image;
    int rows, run_rows, images;
    int used, period;         /* of joined runs; else 0 */
    const ptrdiff_t *offsets; /* of the segments of a row */
    const int32_t *start;     /* per column; NULL: zeros */
    const int_requantization *q;
    int first; /* column of q and out that column 0 of w is */
    void *out;
    ptrdiff_t out_row, out_line, out_image;
    void (*ending)(const int_product *p, const int_sums *sums); /* instead of q, or NULL */
    const void *context;                                        /* what the ending needs besides */
};

/* Where the runs of an image and what lies between them fill fewer tiles than the runs alone: makes them one
 * run, of whose every `period` rows the first `used` are results. */
void int_join_runs(int_product *p);

/* A product in tasks that may run at the same time, each with its own scratch memory, 64-byte aligned. */
typedef struct {
    int chunk, panels, tasks; /* runs and panels of a task; number of tasks */
} int_split;
int_split int_product_split(const int_product *p, int threads);
size_t int_product_scratch(const int_product *p);
void int_product_task(const int_product *p, int_split split, int i, void *scratch);

/* All tasks of a product (gemm_run.c); -1 where memory is short. */
int int_product_run(const int_product *p, int threads);

/* start[n] = -shift * (sum of column n's levels), for columns up to a multiple of INT_MAX_COLUMNS. */
void int_start(const int_weights *w, int shift, int32_t *start);

/* The same in new memory, to be freed by int_free; *start is NULL where all are 0. */
int int_product_start(const int_weights *w, int shift, int32_t **start);

/* What is subtracted from activations that the kernels read as uint8. */
static inline int int_shift(const int_options *o) { return o->zero_point + (o->is_signed ? 128 : 0); }

/* Whether rounding gives all codes. */
static inline int int_is_cheap(const int_requantization *q) { return !q->direction && !q->boundaries; }

/* Whether tiles requantize on their own, some only where rounding gives all codes. */
static inline int int_is_in_tile(const int_isa *isa, const int_requantization *q)
{
    return int_is_cheap(q) || (isa->settles && q->limit && !q->boundaries && q->least > 0);
}

/* to[i] = from[i] as uint8: int8 moves up by 128, which turns the top bit round. */
void int_copy_codes(const uint8_t *from, size_t count, int is_signed, uint8_t *to);

#endif
