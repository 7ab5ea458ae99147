/* How tiles of AMX whose sums lie in memory are finished, some rows at a time, while other products are on
 * their way. Private to gemm_amx.c. */
#include "gemm_avx512.h"

/* Bytes of a result. */
static ptrdiff_t element(const int_tile *t) { return t->q ? 1 : sizeof(int32_t); }

/* A tile whose sums lie in memory, from `from` on; `piece` is what is left to be finished of it, and t->out
 * moves with it. */
typedef struct {
    const int_tiles *job;
    int_tile *t;
    const int32_t (*from)[2 * HALF];
    int_piece piece;
    const uint8_t *ahead; /* what is fetched meanwhile, so many lines in every step */
    int lines;
} unfinished;

/* Codes of four rows of 16 sums, as store_codes computes them, in one vector: packing clips at 0. *far: how
 * far from an integer they were. */
ALWAYS vec four_codes(const int32_t (*from)[2 * HALF], __m512 multiplier, __m512 offset, __m512 top,
                      __m512 *far)
{
    vec rows[4];
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        __m512 y = line_at(load(from[i]), multiplier, offset);
        if (far)
            *far = i ? _mm512_range_ps(*far, from_integer(y), LARGER_MAGNITUDE) : from_integer(y);
        rows[i] =
            _mm512_cvt_roundps_epi32(_mm512_min_ps(y, top), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    }
    vec codes =
        _mm512_packus_epi16(_mm512_packs_epi32(rows[0], rows[1]), _mm512_packs_epi32(rows[2], rows[3]));
    /* each quarter holds 4 columns of all rows */
    return _mm512_permutexvar_epi32(_mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15),
                                    codes);
}

/* Stores the first rows, a multiple of 4, of 16 columns as codes; returns how many. */
ALWAYS int store_fours(const int_tile *t, int rows, int column, const int32_t (*from)[2 * HALF],
                       const int has_ladders)
{
    __m512 multiplier = _mm512_loadu_ps(t->q->multiplier + column),
           offset = _mm512_loadu_ps(t->q->offset + column), top = _mm512_set1_ps((float)t->q->top);
    uint8_t *to = (uint8_t *)t->out + column;
    __m512 limit = _mm512_set1_ps(t->q->least), far;
    ptrdiff_t out_row = t->out_row;
    int row = 0;
    for (; row + 4 <= rows; row += 4, to += 4 * out_row) {
        vec codes = four_codes(from + row, multiplier, offset, top, has_ladders ? &far : NULL);
        _mm_storeu_si128((__m128i *)(void *)to, _mm512_castsi512_si128(codes));
        _mm_storeu_si128((__m128i *)(void *)(to + out_row), _mm512_extracti32x4_epi32(codes, 1));
        _mm_storeu_si128((__m128i *)(void *)(to + 2 * out_row), _mm512_extracti32x4_epi32(codes, 2));
        _mm_storeu_si128((__m128i *)(void *)(to + 3 * out_row), _mm512_extracti32x4_epi32(codes, 3));
        if (has_ladders && _mm512_cmp_ps_mask(_mm512_abs_ps(far), limit, _CMP_GT_OQ))
            for (int i = row; i < row + 4; i++)
                settle(t, i, column, load(from[i]));
    }
    return row;
}

static void store_rows(const int_tile *t, int rows, const int32_t (*from)[2 * HALF])
{
    for (int column = 0; column < t->columns; column += HALF) {
        const int32_t(*first)[2 * HALF] = (const int32_t(*)[2 * HALF])(const void *)(&from[0][column]);
        int row = 0;
        if (t->q && t->columns - column >= HALF)
            row = t->q->direction ? store_fours(t, rows, column, first, 1)
                                  : store_fours(t, rows, column, first, 0);
        for (; row < rows; row++)
            store(t, row, column, load(&from[row][column]));
    }
}

static void begin_piece(unfinished *u)
{
    u->from += u->piece.skip;
    if (!u->t->out)
        u->t->out = int_out(u->job, u->piece.run, u->piece.row);
}

/* Finishes up to so many rows of a piece. */
static __attribute__((noinline)) void finish_some(unfinished *u, int most)
{
    int_tile *t = u->t;
    int rows = int_min(most, u->piece.rows);
    store_rows(t, rows, u->from);
    t->out = (uint8_t *)t->out + rows * t->out_row * element(t);
    u->from += rows;
    u->piece.row += rows;
    u->piece.rows -= rows;
    u->piece.left -= rows;
    if (u->piece.rows || !u->piece.left)
        return;
    t->out = NULL;
    int_next_piece(u->job, &u->piece);
    begin_piece(u);
}

static void finish(unfinished *u)
{
    if (u->piece.left && u->t->ends_in_memory) {
        int_end_tile(u->job, u->t, u->from[0], 2 * HALF);
        u->piece.left = 0;
    }
    while (u->piece.left)
        finish_some(u, ROWS);
}

static void begin_to_finish(unfinished *u, int_tile *t, const int32_t (*from)[2 * HALF])
{
    u->t = t;
    u->from = from;
    u->piece.left = t->rows;
    if (t->ends_in_memory)
        return;
    int_first_piece(u->job, t, &u->piece);
    begin_piece(u);
}

/* What is done while products are on their way, which take longer than they take to begin: some rows of
 * another tile are finished, and some lines of the next panel fetched. */
ALWAYS void use_time(unfinished *u)
{
    for (int line = 0; line < u->lines; line++, u->ahead += TILE_BYTES)
        _mm_prefetch((const char *)u->ahead, _MM_HINT_T1);
    if (u->piece.left && !u->t->ends_in_memory)
        finish_some(u, 4);
}
