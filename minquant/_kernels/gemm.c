/* Integer matrix products: cuts them into tasks and feeds tiles to the instruction set. */
#include "gemm.h"
#include <string.h>

#define CHUNK_BYTES (1 << 18) /* activations of a task: they stay in the second-level cache */
#define MOST_ROWS 32          /* of a tile, on any instruction set */

static const int32_t zeros[INT_MAX_COLUMNS];

void int_start(const int_weights *w, int shift, int32_t *start)
{
    shift -= w->centre;
    for (int n = 0; n < int_up(w->columns, INT_MAX_COLUMNS); n++)
        start[n] = n < w->columns ? (int32_t)(0u - (uint32_t)shift * (uint32_t)w->sums[n]) : 0;
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

/* Whether sums go through memory, because a tile cannot finish them itself. */
static int by_way_of_sums(const int_product *p) { return p->ending || (p->q && !int_is_cheap(p->q)); }

/* Sums that went through memory: what ends them, of the rows from `row` on of one run. */
static void end_sums(const int_product *p, const int_sums *sums)
{
    if (p->ending) {
        p->ending(p, sums);
        return;
    }
    uint8_t *out = (uint8_t *)p->out + sums->run * p->out_line + sums->row * p->out_row + sums->first;
    for (int r = 0; r < sums->rows; r++)
        int_requantize(p->q, sums->acc + r * sums->pitch, sums->first, sums->columns, out + r * p->out_row);
}

/* The product of one tile: the rows from `row` on of a run; the second part may belong to the next run. */
static void run_tile(const task *job, int_tile *t, int run, int row, int is_pair)
{
    const int_product *p = job->p;
    int column = p->first + job->column;
    ptrdiff_t place = run * p->out_line + row * p->out_row + column;
    int_requantization q;
    t->q = NULL;
    t->a = p->a + run * p->line + row * p->row;
    t->lower = is_pair ? p->line : t->upper * p->row;
    if (by_way_of_sums(p)) {
        int32_t *acc = (int32_t *)(void *)(job->scratch + decoded_bytes(p->w));
        int upper = is_pair ? t->upper : t->rows;
        t->out = acc;
        t->out_row = job->width;
        t->out_lower = t->upper * t->out_row;
        p->w->isa->tile(t);
        end_sums(p, &(int_sums){acc, upper, t->columns, job->width, column, run, row});
        if (is_pair)
            end_sums(p, &(int_sums){acc + t->out_lower, t->rows - upper, t->columns, job->width, column,
                                    run + 1, row});
        return;
    }
    t->out_lower = is_pair ? p->out_line : t->upper * p->out_row;
    if (p->q) {
        q = *p->q;
        q.multiplier += column;
        q.offset += column;
        t->q = &q;
        t->out = (uint8_t *)p->out + place;
    } else
        t->out = (int32_t *)p->out + place;
    p->w->isa->tile(t);
}

static int needs_decoding(const int_weights *w, int rows)
{
    return (w->bits < 8 || w->wide) && rows > w->isa->fused_rows;
}

static int rows_before(const int_product *p, int run) { return int_min(run * p->run_rows, p->rows); }

static int rows_of(const int_product *p, int run) { return rows_before(p, run + 1) - rows_before(p, run); }

static void run_task(const task *job)
{
    const int_product *p = job->p;
    const int_weights *w = p->w;
    int rows = rows_before(p, job->end) - rows_before(p, job->first), group = w->isa->group;
    int decoded = needs_decoding(w, rows), tiles = 0;
    int_tile t = {.row = p->row,
                  .offsets = p->offsets,
                  .segments = w->segments,
                  .weights = w,
                  .w = job->panel,
                  .tiles = &tiles,
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
    int half = w->isa->rows / 2;
    for (int run = job->first; run < job->end; run++) {
        int length = rows_of(p, run);
        if (w->isa->takes_pairs && length <= half && run + 1 < job->end && rows_of(p, run + 1) == length) {
            t.rows = 2 * length;
            t.upper = length;
            run_tile(job, &t, run++, 0, 1);
            continue;
        }
        int count = (length + w->isa->rows - 1) / w->isa->rows,
            height = count ? (length + count - 1) / count : 0;
        for (int i = 0; i < length; i += height) {
            t.rows = int_min(height, length - i);
            t.upper = int_min(t.rows, half);
            run_tile(job, &t, run, i, 0);
        }
    }
    if (tiles)
        w->isa->release();
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

int_split int_product_split(const int_product *p, int threads)
{
    int runs = p->rows ? (p->rows + p->run_rows - 1) / p->run_rows : 0;
    int chunk = runs ? runs_of_task(p, runs, threads) : 1;
    return (int_split){chunk, (runs + chunk - 1) / chunk * int_panels(p->w)};
}

size_t int_product_scratch(const int_product *p)
{
    if (!needs_decoding(p->w, p->rows) && !by_way_of_sums(p))
        return 0;
    return decoded_bytes(p->w) + MOST_ROWS * INT_MAX_COLUMNS * sizeof(int32_t);
}

void int_product_task(const int_product *p, int_split split, int i, void *scratch)
{
    const int_weights *w = p->w;
    int runs = (p->rows + p->run_rows - 1) / p->run_rows, panels = int_panels(w);
    int panel = i % panels, first = i / panels * split.chunk;
    size_t panel_bytes = int_panel_codes(w, w->isa->columns) * (size_t)w->bits / 8;
    task job = {.p = p,
                .first = first,
                .end = int_min(first + split.chunk, runs),
                .column = panel * w->isa->columns,
                .width = int_panel_width(w, panel),
                .panel = w->panels + (size_t)panel * panel_bytes,
                .scratch = scratch};
    run_task(&job);
}
