/* Integer matrix products for one call: shares tasks among threads, with memory from the heap. */
#include "gemm.h"
#include <string.h>

void int_copy_codes(const uint8_t *from, size_t count, int is_signed, uint8_t *to)
{
    if (!is_signed) {
        memcpy(to, from, count);
        return;
    }
    for (size_t i = 0; i < count; i++)
        to[i] = from[i] ^ 0x80;
}

int int_product_start(const int_weights *w, int shift, int32_t **start)
{
    *start = NULL;
    if (shift == w->centre)
        return 0;
    *start = int_alloc((size_t)int_up(w->columns, INT_MAX_COLUMNS) * sizeof **start);
    if (!*start)
        return -1;
    int_start(w, shift, *start);
    return 0;
}

typedef struct {
    const int_product *p;
    int_split split;
    uint8_t *scratch; /* `bytes` for each thread */
    size_t bytes;
} product_job;

static int run_task(const void *context, int i, int thread)
{
    const product_job *job = context;
    int_product_task(job->p, job->split, i, job->bytes ? job->scratch + (size_t)thread * job->bytes : NULL);
    return 0;
}

int int_product_run(const int_product *p, int threads)
{
    product_job job = {p, int_product_split(p, threads), NULL, int_product_scratch(p)};
    threads = int_team(threads, job.split.tasks);
    if (!job.split.tasks)
        return 0;
    if (job.bytes && !(job.scratch = int_alloc(job.bytes * (size_t)threads)))
        return -1;
    int_share(job.split.tasks, threads, run_task, &job);
    int_free(job.scratch);
    return 0;
}

/* A copy of a with rows padded as the weights' segments are, as uint8; NULL where memory is short. */
static uint8_t *copy_rows(const int_weights *w, int m, const uint8_t *a, ptrdiff_t row, int is_signed)
{
    uint8_t *copy = int_alloc((size_t)m * (size_t)w->padded);
    if (copy) {
        size_t tail = (size_t)(w->padded - w->length);
        for (int i = 0; i < m; i++) {
            uint8_t *to = copy + (size_t)i * (size_t)w->padded;
            int_copy_codes(a + i * row, (size_t)w->length, is_signed, to);
            memset(to + w->length, 0, tail);
        }
    }
    return copy;
}

int int_gemm(const int_weights *w, int m, const uint8_t *a, ptrdiff_t row, void *out, ptrdiff_t out_row,
             const int_options *options)
{
    static const ptrdiff_t no_offset[1];
    int32_t *start;
    uint8_t *copy = NULL;
    if (int_product_start(w, int_shift(options), &start))
        return -1;
    int failed = 0;
    if (options->is_signed || w->padded != w->length) {
        copy = copy_rows(w, m, a, row, options->is_signed);
        failed = !copy;
        a = copy;
        row = w->padded;
    }
    int_product p = {.w = w,
                     .a = a,
                     .row = row,
                     .line = INT_RUN_ROWS * row,
                     .rows = m,
                     .run_rows = INT_RUN_ROWS,
                     .images = 1,
                     .offsets = no_offset,
                     .start = start,
                     .q = options->q,
                     .out = out,
                     .out_line = INT_RUN_ROWS * out_row,
                     .out_row = out_row};
    failed = failed || int_product_run(&p, options->threads);
    int_free(copy);
    int_free(start);
    return failed ? -1 : 0;
}
