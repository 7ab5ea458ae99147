/* Products with the ARMv8.6 matrix multiply: usmmla adds the product of 2 x 8 uint8 and 8 x 2 int8 to 2 x 2
 * int32.
 *
 * Bound: none but INT_MAX_K; usmmla adds exactly, modulo 2^32. No product of int8 on this instruction set
 * takes fewer than 1/32 = 0.03125 instructions. */
#include "int_isa.h"
#if defined(__aarch64__) && defined(__ARM_FEATURE_MATMUL_INT8)
#include "gemm_neon.h"

#define PAIRS (DOT_ROWS / 2) /* of rows; an odd last row is its own partner */
#define DUOS (COLUMNS / 2)   /* of columns */
#define GROUP 8              /* k in one half of a vector */

/* As an intrinsic compilers would order the sums one after another. */
ALWAYS void multiply_add(int32x4_t *sum, uint8x16_t x, int8x16_t w)
{
    __asm__ volatile("usmmla %0.4s, %1.16b, %2.16b" : "+w"(*sum) : "w"(x), "w"(w));
}

/* sums += pairs of rows times one group of weights: eight vectors of 2 columns x 8 k. */
ALWAYS void add_group(const uint8x16_t *x, const uint8_t **w, tables levels, int pairs, int bits,
                      int32x4_t sums[][DUOS])
{
#pragma GCC unroll 4
    for (int v = 0; v < DUOS; v += held_by_load(bits)) {
        int8x16_t lanes[4];
        load_levels(w, bits, levels, lanes);
#pragma GCC unroll 4
        for (int i = 0; i < held_by_load(bits); i++)
#pragma GCC unroll 3
            for (int p = 0; p < pairs; p++)
                multiply_add(&sums[p][v + i], x[p], lanes[i]);
    }
}

ALWAYS uint8x16_t low_halves(uint8x16_t a, uint8x16_t b)
{
    return vreinterpretq_u8_u64(vzip1q_u64(vreinterpretq_u64_u8(a), vreinterpretq_u64_u8(b)));
}

ALWAYS uint8x16_t high_halves(uint8x16_t a, uint8x16_t b)
{
    return vreinterpretq_u8_u64(vzip2q_u64(vreinterpretq_u64_u8(a), vreinterpretq_u64_u8(b)));
}

/* One segment: two groups per load of activations, then one that may be left. */
ALWAYS void add_segment(const int_tile *t, const uint8_t *a, const uint8_t *w, tables levels, int rows,
                        int bits, int32x4_t sums[][DUOS])
{
    const int pairs = (rows + 1) / 2;
    uint8x16_t low[PAIRS], high[PAIRS];
    int g = 0;
    for (; g + 2 <= t->groups; g += 2, a += 2 * GROUP) {
#pragma GCC unroll 3
        for (int p = 0; p < pairs; p++) {
            uint8x16_t even = vld1q_u8(a + 2 * p * t->row);
            uint8x16_t odd = 2 * p + 1 < rows ? vld1q_u8(a + (2 * p + 1) * t->row) : even;
            low[p] = low_halves(even, odd);
            high[p] = high_halves(even, odd);
        }
        add_group(low, &w, levels, pairs, bits, sums);
        add_group(high, &w, levels, pairs, bits, sums);
    }
    if (g == t->groups)
        return;
#pragma GCC unroll 3
    for (int p = 0; p < pairs; p++) {
        uint8x8_t even = vld1_u8(a + 2 * p * t->row);
        low[p] = vcombine_u8(even, 2 * p + 1 < rows ? vld1_u8(a + (2 * p + 1) * t->row) : even);
    }
    add_group(low, &w, levels, pairs, bits, sums);
}

ALWAYS void product(const int_tile *t, int rows, int bits)
{
    const int pairs = (rows + 1) / 2;
    tables levels = load_tables(t->weights->table, bits);
    int32x4_t sums[PAIRS][DUOS];
#pragma GCC unroll 3
    for (int p = 0; p < pairs; p++)
#pragma GCC unroll 8
        for (int v = 0; v < DUOS; v++) {
            int32x2_t start = vld1_s32(t->start + 2 * v);
            sums[p][v] = vcombine_s32(start, start);
        }
    for (int segment = 0; segment < t->segments; segment++)
        add_segment(t, t->a + t->offsets[segment], (const uint8_t *)t->w + segment * t->segment_bytes, levels,
                    rows, bits, sums);
    int32_t results[DOT_ROWS][COLUMNS];
#pragma GCC unroll 3
    for (int p = 0; p < pairs; p++)
#pragma GCC unroll 8
        for (int v = 0; v < DUOS; v++) {
            vst1_s32(results[2 * p] + 2 * v, vget_low_s32(sums[p][v]));
            vst1_s32(results[2 * p + 1] + 2 * v, vget_high_s32(sums[p][v]));
        }
    store_rows(t, 0, COLUMNS, results[0]);
}

#include "gemm_neon_tiles.h"

static const int_isa isa = {.name = "neon_i8mm",
                            .rate = 120,
                            .rows = DOT_ROWS,
                            .columns = COLUMNS,
                            .narrow = COLUMNS,
                            .group = GROUP,
                            .vector = VECTOR,
                            .fused_rows = DOT_FUSED_ROWS,
                            .widest_product = INT_MAX_PRODUCT,
                            .decode = decode,
                            .tile = tile,
                            .loops = &int_loops_neon,
                            .floats = &codebook_isa_neon};
const int_isa *const int_isa_neon_i8mm = &isa;
#else
const int_isa *const int_isa_neon_i8mm = NULL;
#endif
