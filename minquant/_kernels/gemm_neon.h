/* What the ARM kernels share: decoding panels, the end of a tile. */
#ifndef MINQUANT_GEMM_NEON_H
#define MINQUANT_GEMM_NEON_H
#include "int_isa.h"
#include <arm_neon.h>
#include <string.h>

#define ALWAYS static inline __attribute__((always_inline))
#define COLUMNS 16
#define VECTOR 16
#define DOT_ROWS \
    6 /* of the kernels with 8-bit products: most of a tile; most that decode codes in registers */
#define DOT_FUSED_ROWS 2

/* Levels by nibble, see int_nibble_levels. */
typedef struct {
    int8x16_t low, high;
} tables;

ALWAYS tables load_tables(const int8_t *levels, int bits)
{
    int8_t low[16], high[16];
    int_nibble_levels(levels, bits, low, high);
    return (tables){vld1q_s8(low), vld1q_s8(high)};
}

/* Vectors of levels that one load of codes of `bits` bits gives. */
ALWAYS int held_by_load(int bits) { return bits == 2 ? 4 : 2; }

/* The next vectors of levels, and *from moved past their codes. Compilers would load all weights of a step
 * ahead of the sums, for which there are too few registers: hence instructions that stay where they are. */
ALWAYS void load_levels(const uint8_t **from, int bits, tables t, int8x16_t *lanes)
{
    uint8x16_t codes;
    if (bits == 8) {
        __asm__ volatile("ldp %q1, %q2, [%0], #32"
                         : "+r"(*from), "=w"(lanes[0]), "=w"(lanes[1])
                         : "m"(*(const uint8_t(*)[32])(*from)));
        return;
    }
    __asm__ volatile("ldr %q1, [%0], #16" : "+r"(*from), "=w"(codes) : "m"(*(const uint8_t(*)[16])(*from)));
    uint8x16_t even = vandq_u8(codes, vdupq_n_u8(15)), odd = vshrq_n_u8(codes, 4);
    lanes[0] = vqtbl1q_s8(t.low, even);
    lanes[1] = vqtbl1q_s8(bits == 4 ? t.low : t.high, bits == 4 ? odd : even);
    if (bits == 2) {
        lanes[2] = vqtbl1q_s8(t.low, odd);
        lanes[3] = vqtbl1q_s8(t.high, odd);
    }
}

ALWAYS void decode_panel(const int_weights *w, const uint8_t *from, size_t codes, int bits, int8_t *to)
{
    tables t = load_tables(w->table, bits);
    for (int8_t *end = to + codes; to < end; to += VECTOR * held_by_load(bits)) {
        int8x16_t lanes[4];
        load_levels(&from, bits, t, lanes);
        for (int i = 0; i < held_by_load(bits); i++)
            vst1q_s8(to + VECTOR * i, lanes[i]);
    }
}

static void decode(const int_weights *w, const uint8_t *from, size_t codes, void *to)
{
    if (w->bits == 4)
        decode_panel(w, from, codes, 4, to);
    else
        decode_panel(w, from, codes, 2, to);
}

/* clip(rint(acc * multiplier + offset), 0, top) for four columns; the conversion itself clips at 0. */
ALWAYS uint16x4_t codes_of(const int_requantization *q, int column, int32x4_t acc)
{
    float32x4_t y = vmulq_f32(vcvtq_f32_s32(acc), vld1q_f32(q->multiplier + column));
    y = vaddq_f32(y, vld1q_f32(q->offset + column));
    return vmovn_u32(vminq_u32(vcvtnq_u32_f32(y), vdupq_n_u32((uint32_t)q->top)));
}

/* Store the sums of `columns` columns from `column` on, or of as many as the tile has. Not inlined: else
 * compilers divide the registers of the loops before it among its many ends. */
static __attribute__((noinline)) void store_rows(const int_tile *t, int column, int columns,
                                                 const int32_t *sums)
{
    int count = int_min(columns, t->columns - column);
    size_t size = t->q ? sizeof(uint8_t) : sizeof(int32_t);
    uint8_t *to = (uint8_t *)t->out + (size_t)column * size;
    _Alignas(int32_t) uint8_t row[COLUMNS * sizeof(int32_t)];
    for (int r = 0; r < t->rows; r++, sums += columns, to += t->out_row * (ptrdiff_t)size) {
        uint8_t *place = count == columns ? to : row;
        for (int c = 0; c < columns; c += 8) {
            int32x4_t low = vld1q_s32(sums + c), high = vld1q_s32(sums + c + 4);
            if (t->q) {
                uint16x8_t codes =
                    vcombine_u16(codes_of(t->q, column + c, low), codes_of(t->q, column + c + 4, high));
                vst1_u8(place + c, vmovn_u16(codes));
            } else {
                vst1q_s32((int32_t *)(void *)place + c, low);
                vst1q_s32((int32_t *)(void *)place + c + 4, high);
            }
        }
        if (place == row)
            memcpy(to, row, (size_t)count * size);
    }
}

#endif
