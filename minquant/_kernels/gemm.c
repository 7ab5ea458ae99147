/* Integer matrix products: cuts them into tasks and feeds tiles to the instruction set. */
#include "gemm_tiles.h"
#include <string.h>

#define CHUNK_BYTES (1 << 18) /* activations of a task: they stay in the second-level cache */
#define MOST_TASK_ROWS 512
#define SUMS_BYTES (32 * INT_MAX_COLUMNS * sizeof(int32_t)) /* a tile has at most 32 rows */
/* Rows, and panels that read them, from which packing pays. */
#define LEAST_PACKED 16
#define LEAST_PANELS 4
#define LINE 64 /* bytes, of the caches */
/* Tiles of joined runs over those of runs apart, up to which joining pays, by the inputs of a row. */
#define LONG_ROW 1024
#define LONG_SHARE 0.8
#define SHORT_SHARE 0.67
#define LARGE_WEIGHTS (1 << 17) /* bytes that a cache may not keep from one image to the next */

const int32_t int_zeros[INT_MAX_COLUMNS];

void int_start(const int_weights *w, int shift, int32_t *start)
{
    shift -= w->centre;
    for (int n = 0; n < int_up(w->columns, INT_MAX_COLUMNS); n++)
        start[n] = n < w->columns ? (int32_t)(0u - (uint32_t)shift * (uint32_t)w->sums[n]) : 0;
}

static size_t decoded_bytes(const int_weights *w)
{
    return (size_t)int_up((int)int_panel_codes(w, w->isa->columns), 64) * (w->wide ? 2 : 1);
}

static size_t panel_bytes(const int_weights *w)
{
    return int_panel_codes(w, w->isa->columns) * (size_t)w->bits / 8;
}

static int needs_decoding(const int_weights *w, int rows)
{
    return (w->bits < 8 || w->wide) && rows > w->isa->fused_rows;
}

/* Whether the rows of a task are copied side by side: full tiles for many panels are worth it where every
 * input is copied once. */
static int is_packed(const int_product *p)
{
    const int_weights *w = p->w;
    return int_min(p->run_rows, p->rows) <= w->isa->packs_up_to && p->images * p->rows >= LEAST_PACKED &&
           int_panels(w) >= LEAST_PANELS && w->segments == 1 && w->padded == w->length && !p->period;
}

/* Their tiles read decoded panels, so the rows must be enough for decoding. */
void int_join_runs(int_product *p)
{
    const int_isa *isa = p->w->isa;
    const int most = isa->rows, used = p->run_rows;
    if (used >= most / 2 || !isa->takes_pairs || used >= p->rows)
        return;
    int row = (int)p->row, line = (int)p->line, runs = p->rows / used, period = line / row;
    int span = (runs - 1) * period + used, joined = (span + most - 1) / most, apart = (runs + 1) / 2;
    int is_even = period * row == line && runs * used == p->rows;
    int is_long = p->w->segments * p->w->length >= LONG_ROW;
    if (!is_even || period < used || span <= isa->fused_rows || is_packed(p) ||
        joined > apart * (is_long ? LONG_SHARE : SHORT_SHARE))
        return;
    p->used = used;
    p->period = period;
    p->rows = p->run_rows = span;
}

/* Bytes from one packed row to the next: those of neighbours lie in different sets of the cache. */
static ptrdiff_t packed_row(const int_weights *w)
{
    int bytes = int_up(w->length, 64);
    return bytes % 512 ? bytes : bytes + 64;
}

static void pack_rows(const int_product *p, int_run at, int rows, uint8_t *to)
{
    const ptrdiff_t size = packed_row(p->w);
    for (; rows; rows -= at.rows, at = run_after(p, at))
        for (int r = 0; r < at.rows; r++, to += size)
            memcpy(to, p->a + input_of(p, at) + r * p->row, (size_t)p->w->length);
}

/* Memory of a task: a decoded panel, sums of a tile, packed rows. */
typedef struct {
    uint8_t *decoded, *sums, *rows;
} task_memory;

static task_memory lay_out(const int_weights *w, void *scratch)
{
    uint8_t *decoded = scratch, *sums = decoded + decoded_bytes(w);
    return (task_memory){decoded, sums, sums + SUMS_BYTES};
}

/* What all tiles of a panel have in common. */
static void describe_tile(const int_tiles *job, int width, const void *panel, int bits, void *sums,
                          int_tile *t)
{
    const int_product *p = job->p;
    const int_weights *w = p->w;
    int inputs = bits >= 8 ? w->length : w->padded;
    t->row = job->packed ? job->packed_row : p->row;
    t->offsets = p->offsets;
    t->segments = w->segments;
    t->groups = (inputs + w->isa->group - 1) / w->isa->group;
    t->w = panel;
    t->segment_bytes = (ptrdiff_t)w->padded * width * bits / 8;
    t->weights = w;
    t->start = p->start ? p->start + job->column : int_zeros;
    t->bits = bits;
    t->columns = int_min(width, w->columns - job->column);
    t->ends_in_memory = ends_in_memory(p);
    t->q = p->q && !t->ends_in_memory ? &job->q : NULL;
    t->out = t->ends_in_memory ? sums : NULL;
    t->out_row = t->ends_in_memory ? width : p->out_row;
    t->is_pair = 0;
}

/* What requantizes a panel's columns. */
static void take_factors(int_tiles *job)
{
    const int_product *p = job->p;
    int first = p->first + job->column;
    if (!p->q)
        return;
    job->q = *p->q;
    job->q.multiplier += first;
    job->q.offset += first;
    if (!p->q->direction || !p->q->rows)
        return;
    job->q.direction += first;
    job->q.rows += first;
    job->q.limit += first;
}

/* What tiles fetch into the second-level cache while they multiply: the next panel of the task, of weights
 * that are too large to have stayed there. */
static void look_ahead(int_tiles *job, int panel, int end)
{
    const int_weights *w = job->p->w;
    job->ahead = w->panels + (size_t)(panel + 1) * panel_bytes(w);
    job->ahead_lines = 0;
    if (panel + 1 < end && w->bytes >= LARGE_WEIGHTS) {
        int tiles = (job->left + w->isa->rows - 1) / w->isa->rows;
        int steps = tiles * w->segments * ((w->padded + LINE - 1) / LINE);
        job->ahead_lines = (int)(panel_bytes(w) / LINE) / steps + 1;
    }
}

static void run_tiles(int_tiles *job)
{
    const int_isa *isa = job->p->w->isa;
    if (isa->tiles) {
        isa->tiles(job);
        return;
    }
    for (int_tile *t; (t = int_next_tile(job));) {
        isa->tile(t);
        if (t->ends_in_memory)
            int_end_tile(job, t, t->out, (int)t->out_row);
    }
}

/* Some rows times one panel. */
static void run_panel(int_tiles *job, int panel, task_memory memory)
{
    const int_weights *w = job->p->w;
    int width = int_panel_width(w, panel), bits = w->bits;
    const uint8_t *from = w->panels + (size_t)panel * panel_bytes(w);
    int rows = job->packed ? MOST_TASK_ROWS : job->left; /* packed tiles read decoded panels, however few */
    if (needs_decoding(w, rows)) {
        w->isa->decode(w, from, int_panel_codes(w, width), memory.decoded);
        from = memory.decoded;
        bits = w->wide ? 16 : 8;
    }
    job->column = panel * w->isa->columns;
    take_factors(job);
    describe_tile(job, width, from, bits, memory.sums, job->t);
    if (job->takes_turns) /* a copy would wait until the first is written */
        describe_tile(job, width, from, bits, memory.sums, job->t + 1);
    run_tiles(job);
}

/* Runs of one task: enough rows to pay for decoding a panel, few enough to stay in the cache and for all
 * threads; about as many for every task. */
static int runs_of_task(const int_product *p, int runs, int threads)
{
    int row = is_packed(p) ? (int)packed_row(p->w) : (int)p->row;
    int rows = int_min(CHUNK_BYTES / int_up(row + 1, 1 << 8) + 64, MOST_TASK_ROWS);
    int each = int_min(p->run_rows, p->rows), chunk = (rows + each - 1) / each;
    while (chunk > 1 && chunk * each > 64 && (runs + chunk - 1) / chunk * int_panels(p->w) < 2 * threads)
        chunk = (chunk + 1) / 2;
    int tasks = (runs + chunk - 1) / chunk;
    return (runs + tasks - 1) / tasks;
}

int_split int_product_split(const int_product *p, int threads)
{
    int runs = runs_of_image(p) * p->images, chunk = runs ? runs_of_task(p, runs, threads) : 1;
    int chunks = (runs + chunk - 1) / chunk, panels = int_panels(p->w), each = 1;
    if (threads == 1 && panels)
        each = panels;
    else if (is_packed(p)) /* once for all panels of a task */
        each = (panels + 2 * threads - 1) / (2 * threads);
    return (int_split){chunk, each, chunks * ((panels + each - 1) / each)};
}

size_t int_product_scratch(const int_product *p)
{
    const int_weights *w = p->w;
    if (!needs_decoding(w, p->rows * p->images) && !ends_in_memory(p) && !is_packed(p))
        return 0;
    size_t rows = (size_t)(CHUNK_BYTES + (64 + p->run_rows) * packed_row(w));
    return decoded_bytes(w) + SUMS_BYTES + (is_packed(p) ? rows : 0);
}

/* Rows of `count` runs from run `first` on. */
static int rows_between(const int_product *p, int first, int count)
{
    int runs = runs_of_image(p), ends = (first + count) / runs - first / runs;
    return count * p->run_rows - ends * (runs * p->run_rows - p->rows);
}

void int_product_task(const int_product *p, int_split split, int i, void *scratch)
{
    const int_weights *w = p->w;
    int runs = runs_of_image(p), panels = int_panels(w), parts = (panels + split.panels - 1) / split.panels;
    int panel = i % parts * split.panels, end = int_min(panel + split.panels, panels);
    int first = i / parts * split.chunk;
    int count = int_min(split.chunk, runs * p->images - first);
    task_memory memory = lay_out(w, scratch);
    int_run at = run_at(p, first / runs, first % runs);
    int rows = rows_between(p, first, count), packed = is_packed(p);
    int_tiles job;
    job.p = p;
    job.turn = 0;
    job.takes_turns = w->isa->tiles != NULL;
    if (packed) {
        job.packed_row = packed_row(w);
        pack_rows(p, at, rows, memory.rows);
    }
    for (; panel < end; panel++) {
        int_start_tiles(&job, at, rows);
        job.packed = packed ? memory.rows : NULL;
        if (w->isa->tiles)
            look_ahead(&job, panel, end);
        run_panel(&job, panel, memory);
    }
}
