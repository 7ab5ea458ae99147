/* The runs of a product and the tiles of a task. Private to gemm.c and gemm_tiles.c. */
#ifndef MINQUANT_GEMM_TILES_H
#define MINQUANT_GEMM_TILES_H
#include "gemm.h"

/* Of an image; the last may be shorter. */
static inline int runs_of_image(const int_product *p)
{
    return p->rows ? (p->rows + p->run_rows - 1) / p->run_rows : 0;
}

static inline int_run run_at(const int_product *p, int image, int run)
{
    return (int_run){image, run, int_min(p->run_rows, p->rows - run * p->run_rows)};
}

static inline int_run run_after(const int_product *p, int_run r)
{
    int is_last = (r.run + 1) * p->run_rows >= p->rows;
    return run_at(p, r.image + is_last, is_last ? 0 : r.run + 1);
}

static inline ptrdiff_t input_of(const int_product *p, int_run r)
{
    return r.image * p->image + r.run * p->line;
}

/* Whether a tile cannot finish its sums, so that they go through memory. */
static inline int ends_in_memory(const int_product *p)
{
    return p->ending || (p->q && !int_is_in_tile(p->w->isa, p->q));
}

/* Some rows of a product times one panel: `left` of them, of which the next is row `row` of run `at`. */
struct int_tiles {
    const int_product *p;
    int_run at;
    int row, left, column;
    int height;            /* rows of the tiles of run `at`, but for the last */
    const uint8_t *packed; /* NULL, or where the rows that are left lie side by side */
    ptrdiff_t packed_row;  /* bytes between them */
    int_requantization q;
    int_tile t[2];
    const uint8_t *ahead; /* the next panel; int_look_ahead */
    int ahead_lines;
    int turn, takes_turns; /* tile to be handed out; whether the other one is still in use then */
};

/* Sets the rows of a task. */
void int_start_tiles(int_tiles *job, int_run at, int rows);

#endif
