/* Integer matrix products: cuts them into tasks, shares these among threads, feeds tiles to the instruction
 * set. */
#include "gemm.h"
#include <stdlib.h>
#include <string.h>
#ifdef _OPENMP
#include <omp.h>
#else
static int omp_get_thread_num(void) { return 0; }
#endif

#define RUN_ROWS 112          /* of a matrix product: whole tiles of every instruction set */
#define CHUNK_BYTES (1 << 18) /* activations of a task: they stay in the second-level cache */
#define MOST_ROWS 32          /* of a tile, on any instruction set */

static const int32_t zeros[INT_MAX_COLUMNS];

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
    shift -= w->isa->centre;
    if (!shift)
        return 0;
    int32_t *values = int_alloc((size_t)int_up(w->columns, INT_MAX_COLUMNS) * sizeof *values);
    if (!values)
        return -1;
    for (int n = 0; n < int_up(w->columns, INT_MAX_COLUMNS); n++)
        values[n] = n < w->columns ? (int32_t)(0u - (uint32_t)shift * (uint32_t)w->sums[n]) : 0;
    *start = values;
    return 0;
}

/* One task: the runs from `first` to before `end` times one panel. */
typedef struct {
    const int_product *p;
    int first, end, column, width;
    const uint8_t *panel;
    uint8_t *scratch; /* for the decoded panel, then for accumulators */
} task;

static size_t decoded_bytes(const int_weights *w)
{
    return (size_t)int_up((int)int_panel_codes(w, w->isa->columns), 64) * (w->wide ? 2 : 1);
}

/* The product of one tile, by way of int32 where the tile cannot finish the codes itself. */
static void run_tile(const task *job, int_tile *t, int out_row)
{
    const int_product *p = job->p;
    int column = p->first + job->column;
    size_t place = (size_t)out_row * (size_t)p->out_row + (size_t)column;
    if (!p->q) {
        t->out = (int32_t *)p->out + place;
        p->w->isa->tile(t);
        return;
    }
    int_requantization q = *p->q;
    q.multiplier += column;
    q.offset += column;
    t->out = (uint8_t *)p->out + place;
    t->q = &q;
    if (!q.direction) {
        p->w->isa->tile(t);
        return;
    }
    int32_t *acc = (int32_t *)(void *)(job->scratch + decoded_bytes(p->w));
    t->out = acc;
    t->out_row = job->width;
    t->q = NULL;
    p->w->isa->tile(t);
    for (int r = 0; r < t->rows; r++)
        int_requantize(p->q, acc + r * job->width, column, t->columns,
                       (uint8_t *)p->out + place + (size_t)r * (size_t)p->out_row);
    t->out_row = p->out_row;
}

static int rows_before(const int_product *p, int run) { return int_min(run * p->run_rows, p->rows); }

static void run_task(const task *job)
{
    const int_product *p = job->p;
    const int_weights *w = p->w;
    int rows = rows_before(p, job->end) - rows_before(p, job->first), group = w->isa->group;
    int decoded = (w->bits < 8 || w->wide) && rows > w->isa->fused_rows;
    int_tile t = {.row = p->row,
                  .offsets = p->offsets,
                  .segments = w->segments,
                  .weights = w,
                  .w = job->panel,
                  .start = p->start ? p->start + job->column : zeros,
                  .bits = !decoded  ? w->bits
                          : w->wide ? 16
                                    : 8,
                  .columns = int_min(job->width, w->columns - job->column),
                  .groups = (decoded || w->bits == 8 ? int_up(w->length, group) : w->padded) / group,
                  .out_row = p->out_row};
    t.segment_bytes = (ptrdiff_t)w->padded * job->width * t.bits / 8;
    if (decoded) {
        w->isa->decode(w, job->panel, int_panel_codes(w, job->width), job->scratch);
        t.w = job->scratch;
    }
    for (int run = job->first; run < job->end; run++) {
        int length = rows_before(p, run + 1) - rows_before(p, run);
        int tiles = (length + w->isa->rows - 1) / w->isa->rows,
            height = tiles ? (length + tiles - 1) / tiles : 0;
        for (int i = 0; i < length; i += height) {
            t.rows = int_min(height, length - i);
            t.a = p->a + run * p->line + i * p->row;
            run_tile(job, &t, rows_before(p, run) + i);
        }
    }
}

/* Runs of one task: enough rows to pay for decoding a panel, few enough to stay in the cache and for all
 * threads. */
static int runs_of_task(const int_product *p, int runs, int threads)
{
    int rows = int_min(CHUNK_BYTES / int_up(p->w->segments * p->w->length + 1, 1 << 8) + 64, 512);
    int chunk = (rows + p->run_rows - 1) / p->run_rows;
    while (chunk > 1 && chunk * p->run_rows > 64 &&
           (runs + chunk - 1) / chunk * int_panels(p->w) < 2 * threads)
        chunk = (chunk + 1) / 2;
    return chunk;
}

int int_product_run(const int_product *p, int threads)
{
    const int_weights *w = p->w;
    int runs = p->rows ? (p->rows + p->run_rows - 1) / p->run_rows : 0, panels = int_panels(w);
    int chunk = runs ? runs_of_task(p, runs, threads) : 1, tasks = (runs + chunk - 1) / chunk * panels;
    int needs_scratch =
        ((w->bits < 8 || w->wide) && p->rows > w->isa->fused_rows) || (p->q && p->q->direction);
    threads = threads < tasks ? threads : tasks;
    if (!tasks)
        return 0;
    size_t bytes = decoded_bytes(w) + MOST_ROWS * INT_MAX_COLUMNS * sizeof(int32_t);
    uint8_t *scratch = needs_scratch ? int_alloc(bytes * (size_t)threads) : NULL;
    if (needs_scratch && !scratch)
        return -1;
    size_t panel_bytes = int_panel_codes(w, w->isa->columns) * (size_t)w->bits / 8;
#pragma omp parallel for num_threads(threads) schedule(dynamic) if (threads > 1)
    for (int i = 0; i < tasks; i++) {
        int panel = i % panels, first = i / panels * chunk;
        task job = {.p = p,
                    .first = first,
                    .end = int_min(first + chunk, runs),
                    .column = panel * w->isa->columns,
                    .width = int_panel_width(w, panel),
                    .panel = w->panels + (size_t)panel * panel_bytes,
                    .scratch = scratch ? scratch + (size_t)omp_get_thread_num() * bytes : NULL};
        run_task(&job);
    }
    int_free(scratch);
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
                     .line = RUN_ROWS * row,
                     .rows = m,
                     .run_rows = RUN_ROWS,
                     .offsets = no_offset,
                     .start = start,
                     .q = options->q,
                     .out = out,
                     .out_row = out_row};
    failed = failed || int_product_run(&p, options->threads);
    int_free(copy);
    int_free(start);
    return failed ? -1 : 0;
}
