/* The tiles of a task: which rows are one, where they lie, and what ends their sums. */
#include "gemm_tiles.h"

/* Rows of a tile, so that all of so many rows have about as many; of joined runs, whole ones if they fit. */
static int height(const int_product *p, int rows)
{
    int most = p->w->isa->rows, count = (rows + most - 1) / most;
    int lines = p->period ? (rows / p->period + count) / count : 0;
    if (lines && lines * p->period <= most)
        return lines * p->period;
    return rows <= most ? rows : (rows + count - 1) / count;
}

/* Where the rows of a packed tile lie. */
static void take_packed(int_tiles *job, int_tile *t)
{
    t->rows = height(job->p, job->left);
    t->upper = int_min(t->rows, job->p->w->isa->rows / 2);
    t->a = job->packed;
    t->lower = t->upper * job->packed_row;
    t->out = t->ends_in_memory ? t->out : NULL;
    job->packed += t->rows * job->packed_row;
}

/* Makes two short runs one tile, if the next one is as short. */
static void take_pair(const int_tiles *job, int_tile *t)
{
    const int_product *p = job->p;
    int_run at = t->at, below = run_after(p, at);
    t->is_pair = job->left >= 2 * at.rows && below.rows == at.rows;
    if (!t->is_pair)
        return;
    int image = below.image - at.image, run = below.run - at.run;
    t->rows = 2 * at.rows;
    t->upper = at.rows;
    t->lower = image * p->image + run * p->line;
    if (!t->ends_in_memory)
        t->out_lower = image * p->out_image + run * p->out_line;
}

/* Where the rows of a tile lie that belong to one run, or to two. */
static void take_rows(const int_tiles *job, int_tile *t)
{
    const int_product *p = job->p;
    const int_isa *isa = p->w->isa;
    t->rows = int_min(job->height, t->at.rows - t->first);
    t->upper = int_min(t->rows, isa->rows / 2);
    t->a = p->a + input_of(p, t->at) + t->first * p->row;
    t->lower = t->upper * p->row;
    t->out_lower = t->upper * t->out_row;
    t->is_pair = 0;
    if (!t->ends_in_memory)
        t->out = p->period ? NULL : int_out(job, t->at, t->first);
    if (isa->takes_pairs && t->at.rows <= isa->rows / 2)
        take_pair(job, t);
}

/* Moves on to the row behind a tile, which may lie some runs further on. */
static void move_on(int_tiles *job)
{
    while (job->row >= job->at.rows) {
        job->row -= job->at.rows;
        job->at = run_after(job->p, job->at);
    }
    job->height = height(job->p, job->at.rows);
}

int_tile *int_next_tile(int_tiles *job)
{
    if (!job->left)
        return NULL;
    int_tile *t = job->t + job->turn;
    t->at = job->at;
    t->first = job->row;
    if (job->packed)
        take_packed(job, t);
    else
        take_rows(job, t);
    job->turn ^= job->takes_turns;
    job->left -= t->rows;
    job->row += t->rows;
    if (job->left && job->row >= job->at.rows)
        move_on(job);
    return t;
}

void int_start_tiles(int_tiles *job, int_run at, int rows)
{
    job->at = at;
    job->row = 0;
    job->left = rows;
    job->height = height(job->p, at.rows);
}

/* From row `row` of the joined runs of an image on, of `left` rows of a tile. */
static void take_between_gaps(const int_product *p, int image, int row, int left, int_piece *piece)
{
    int run = row / p->period, first = row % p->period, skip = 0;
    if (row >= p->rows) {
        image++;
        run = first = 0;
    } else if (first >= p->used) {
        skip = int_min(p->period - first, left);
        run++;
        first = 0;
    }
    left -= skip;
    *piece = (int_piece){{image, run, p->used}, skip, first, int_min(p->used - first, left), left};
}

void int_first_piece(const int_tiles *job, const int_tile *t, int_piece *piece)
{
    if (job->p->period)
        take_between_gaps(job->p, t->at.image, t->first, t->rows, piece);
    else
        *piece = (int_piece){t->at, 0, t->first, int_min(t->at.rows - t->first, t->rows), t->rows};
}

void int_next_piece(const int_tiles *job, int_piece *piece)
{
    const int_product *p = job->p;
    int left = piece->left - piece->rows;
    if (p->period) {
        int row = piece->run.run * p->period + piece->row + piece->rows;
        take_between_gaps(p, piece->run.image, row, left, piece);
        return;
    }
    piece->run = run_after(p, piece->run);
    piece->skip = piece->row = 0;
    piece->rows = int_min(piece->run.rows, left);
    piece->left = left;
}

const uint8_t *int_look_ahead(const int_tiles *job, int *lines)
{
    *lines = job->ahead_lines;
    return job->ahead;
}

void *int_out(const int_tiles *job, int_run run, int row)
{
    const int_product *p = job->p;
    ptrdiff_t elements = run.image * p->out_image + run.run * p->out_line + row * p->out_row;
    return (uint8_t *)p->out + (elements + p->first + job->column) * (ptrdiff_t)(p->q ? 1 : sizeof(int32_t));
}

static void end_sums(const int_tiles *job, const int_sums *sums)
{
    const int_product *p = job->p;
    if (p->ending) {
        p->ending(p, sums);
        return;
    }
    uint8_t *out = int_out(job, (int_run){sums->image, sums->run, 0}, sums->row);
    for (int r = 0; r < sums->rows; r++)
        int_requantize(p->q, sums->acc + r * sums->pitch, sums->first, sums->columns, out + r * p->out_row);
}

void int_end_tile(const int_tiles *job, const int_tile *t, const int32_t *acc, int pitch)
{
    int_sums sums = {.columns = t->columns, .pitch = pitch, .first = job->p->first + job->column};
    int_piece i;
    for (int_first_piece(job, t, &i);; int_next_piece(job, &i)) {
        acc += (ptrdiff_t)i.skip * pitch;
        sums.acc = acc;
        sums.rows = i.rows;
        sums.image = i.run.image;
        sums.run = i.run.run;
        sums.row = i.row;
        end_sums(job, &sums);
        if (i.rows == i.left)
            break;
        acc += (ptrdiff_t)i.rows * pitch;
    }
}
