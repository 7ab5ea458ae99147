/* The end of a tile for kernels that hold their sums in memory; the compiler vectorises it for each of them.
 */
#ifndef MINQUANT_GEMM_FINISH_H
#define MINQUANT_GEMM_FINISH_H
#include "int_isa.h"
#include <string.h>

#define FINISH_COLUMNS 16 /* at most, of a row of sums */

/* rint(y) for 0 <= y <= 2^22: at 2^23 and above float32 holds integers alone, and the sum rounds half to
 * even. */
static inline int int_round(float y) { return (int)((y + 8388608.0f) - 8388608.0f); }

/* Store the sums of `count` columns from `column` on, or of as many as the tile has. */
static inline __attribute__((always_inline)) void finish_columns(const int_tile *t, int row, int column,
                                                                 const int count, const int32_t *sums)
{
    int used = int_min(count, t->columns - column);
    ptrdiff_t place = row * t->out_row + column;
    uint8_t codes[FINISH_COLUMNS];
    if (used <= 0)
        return;
    if (!t->q) {
        memcpy((int32_t *)t->out + place, sums, (size_t)used * sizeof *sums);
        return;
    }
    float top = (float)t->q->top;
    for (int c = 0; c < count; c++) {
        float scaled = (float)sums[c] * t->q->multiplier[column + c];
        float y = scaled + t->q->offset[column + c];
        y = y > 0 ? y : 0;
        codes[c] = (uint8_t)int_round(y < top ? y : top);
    }
    memcpy((uint8_t *)t->out + place, codes, (size_t)used);
}

#endif
