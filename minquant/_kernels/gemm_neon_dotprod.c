/* Products with the ARMv8.2 dot product: sdot adds four products s8 x s8 to each of 4 int32 lanes, 16 in all.
 *
 * Both factors are signed, so activations are read as a - 128 (`centre`). Bound: none but INT_MAX_K; sdot
 * adds exactly, modulo 2^32. No product of int8 on this instruction set takes fewer than 1/16 = 0.0625
 * instructions. */
#include "int_isa.h"
#if defined(__aarch64__) && defined(__ARM_FEATURE_DOTPROD)
#include "gemm_neon.h"

#define STEP 4 /* groups of 4 k in one load of activations */

/* sums += group `lane` of the activations x times one group of weights, four vectors of 4 columns x 4 k. As
 * intrinsics compilers would order the sums one after another. */
#define ADD_GROUP(x, lane)                                                                                 \
    _Pragma("GCC unroll 2") for (int v = 0; v < COLUMNS / 4; v += held_by_load(bits))                      \
    {                                                                                                      \
        int8x16_t lanes[4];                                                                                \
        load_levels(w, bits, levels, lanes);                                                               \
        _Pragma("GCC unroll 4") for (int i = 0; i < held_by_load(bits); i++)                               \
            _Pragma("GCC unroll 6") for (int r = 0; r < rows; r++) __asm__ volatile(                       \
                "sdot %0.4s, %1.16b, %2.4b[" #lane "]" : "+w"(sums[r][v + i]) : "w"(lanes[i]), "w"(x[r])); \
    }

ALWAYS int8x16_t centred(uint8x16_t codes, uint8x16_t top_bits)
{
    return vreinterpretq_s8_u8(veorq_u8(codes, top_bits));
}

/* sums += the product over four groups, one load of activations. */
ALWAYS void add_step(const uint8_t *a, ptrdiff_t row, const uint8_t **w, tables levels, int rows, int bits,
                     int32x4_t sums[][COLUMNS / 4])
{
    int8x16_t x[DOT_ROWS];
    uint8x16_t top_bits; /* made anew in every step: beside all else there is no register for a constant */
    __asm__ volatile("movi %0.16b, #0x80" : "=w"(top_bits));
#pragma GCC unroll 6
    for (int r = 0; r < rows; r++)
        x[r] = centred(vld1q_u8(a + r * row), top_bits);
    ADD_GROUP(x, 0)
    ADD_GROUP(x, 1)
    ADD_GROUP(x, 2)
    ADD_GROUP(x, 3)
}

/* The same over the one group behind the last whole step. */
ALWAYS void add_group(const uint8_t *a, ptrdiff_t row, const uint8_t **w, tables levels, int rows, int bits,
                      int32x4_t sums[][COLUMNS / 4])
{
    int8x16_t x[DOT_ROWS];
#pragma GCC unroll 6
    for (int r = 0; r < rows; r++) {
        uint32_t four;
        memcpy(&four, a + r * row, sizeof four);
        x[r] = centred(vreinterpretq_u8_u32(vdupq_n_u32(four)), vdupq_n_u8(0x80));
    }
    ADD_GROUP(x, 0)
}

ALWAYS void product(const int_tile *t, int rows, int bits)
{
    tables levels = load_tables(t->weights->table, bits);
    int32x4_t sums[DOT_ROWS][COLUMNS / 4];
#pragma GCC unroll 6
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
        for (int v = 0; v < COLUMNS / 4; v++)
            sums[r][v] = vld1q_s32(t->start + 4 * v);
    for (int segment = 0; segment < t->segments; segment++) {
        const uint8_t *a = t->a + t->offsets[segment];
        const uint8_t *w = (const uint8_t *)t->w + segment * t->segment_bytes;
        int g = 0;
        for (; g + STEP <= t->groups; g += STEP, a += 4 * STEP)
            add_step(a, t->row, &w, levels, rows, bits, sums);
        for (; g < t->groups; g++, a += 4)
            add_group(a, t->row, &w, levels, rows, bits, sums);
    }
    int32_t results[DOT_ROWS][COLUMNS];
#pragma GCC unroll 6
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
        for (int v = 0; v < COLUMNS / 4; v++)
            vst1q_s32(results[r] + 4 * v, sums[r][v]);
    store_rows(t, 0, COLUMNS, results[0]);
}

#include "gemm_neon_tiles.h"

static const int_isa isa = {.name = "neon_dotprod",
                            .rate = 60,
                            .rows = DOT_ROWS,
                            .columns = COLUMNS,
                            .narrow = COLUMNS,
                            .group = 4,
                            .vector = VECTOR,
                            .fused_rows = DOT_FUSED_ROWS,
                            .widest_product = INT_MAX_PRODUCT,
                            .centre = 128,
                            .decode = decode,
                            .tile = tile,
                            .loops = &int_loops_neon,
                            .floats = &codebook_isa_neon};
const int_isa *const int_isa_neon_dotprod = &isa;
#else
const int_isa *const int_isa_neon_dotprod = NULL;
#endif
