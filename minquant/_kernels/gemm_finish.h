/* The end of a tile for kernels that hold their sums in memory; the compiler vectorises it for each of them.
 */
#ifndef MINQUANT_GEMM_FINISH_H
#define MINQUANT_GEMM_FINISH_H
#include "int_isa.h"
#include <string.h>

#define FINISH_COLUMNS 16 /* of a row of sums, used or not */

/* rint(y) for 0 <= y <= 2^22: at 2^23 and above float32 holds integers alone, and the sum rounds half to
 * even. */
static inline int int_round(float y) { return (int)((y + 8388608.0f) - 8388608.0f); }

static inline void finish_row(const int_tile *t, int row, const int32_t *sums)
{
    uint8_t codes[FINISH_COLUMNS];
    if (!t->q) {
        memcpy((int32_t *)t->out + row * t->out_row, sums, (size_t)t->columns * sizeof *sums);
        return;
    }
    float top = (float)t->q->top;
    for (int c = 0; c < FINISH_COLUMNS; c++) {
        float scaled = (float)sums[c] * t->q->multiplier[c];
        float y = scaled + t->q->offset[c];
        y = y > 0 ? y : 0;
        codes[c] = (uint8_t)int_round(y < top ? y : top);
    }
    memcpy((uint8_t *)t->out + row * t->out_row, codes, (size_t)t->columns);
}

#endif
