/* Products in plain C that compilers vectorise: any machine. Bound: none but INT_MAX_K. */
#include "gemm_finish.h"

#define ROWS 2
#define COLUMNS 16

/* Panels are decoded to int16, in which vectors multiply and widen at once. */
static void decode(const int_weights *w, const uint8_t *from, size_t codes, void *to)
{
    int16_t *level = to;
    for (size_t block = 0; block < codes; block += (size_t)(COLUMNS * 8 / w->bits), from += COLUMNS)
        for (int shift = 0; shift < 8; shift += w->bits)
            for (int c = 0; c < COLUMNS; c++, level++)
                *level = w->bits == 8 ? (int8_t)from[c] : w->table[from[c] >> shift & ((1 << w->bits) - 1)];
}

static inline void product(const int_tile *t, int rows)
{
    uint32_t sums[ROWS][COLUMNS];
    for (int r = 0; r < rows; r++)
        memcpy(sums[r], t->start, sizeof sums[r]);
    for (int segment = 0; segment < t->segments; segment++) {
        const uint8_t *a = t->a + t->offsets[segment];
        const int16_t *w = (const int16_t *)t->w + segment * t->segment_bytes / 2;
        for (int k = 0; k < t->groups; k++, w += COLUMNS)
            for (int r = 0; r < rows; r++) {
                int16_t x = a[r * t->row + k];
                for (int c = 0; c < COLUMNS; c++)
                    sums[r][c] += (uint32_t)(x * w[c]);
            }
    }
    for (int r = 0; r < rows; r++) {
        int32_t row[COLUMNS];
        memcpy(row, sums[r], sizeof row);
        finish_columns(t, r, 0, COLUMNS, row);
    }
}

static void tile(const int_tile *t)
{
    if (t->rows == 2)
        product(t, 2);
    else
        product(t, 1);
}

static const int_isa isa = {.name = "generic",
                            .rate = 8,
                            .rows = ROWS,
                            .columns = COLUMNS,
                            .narrow = COLUMNS,
                            .group = 1,
                            .vector = COLUMNS,
                            .fused_rows = 0,
                            .widest_product = -1,
                            .decode = decode,
                            .tile = tile,
                            .loops = &int_loops_generic,
                            .floats = &codebook_isa_generic};
const int_isa *const int_isa_generic = &isa;
