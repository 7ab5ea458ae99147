/* Products with the NEON of every 64-bit ARM processor, which has no dot product: smull and smlal multiply s8
 * x s8 and add in 8 lanes of int16, sadalp adds pairs of these to 4 lanes of int32. Activations are read as a
 * - 128
 * (`centre`), so a product is at most 128 L, L the greatest magnitude of a level:
 *
 *   DEEP  128 L depth <= 32767 with depth >= 6, so L <= 42: smlal over `depth` products per lane, then sadalp
 *         (4-bit codes, L = 8: 30 products; 2-bit codes, L = 2: 126)
 *   PAIR  L <= 127: two products per lane (2 * 128 * 127 = 32512), then sadalp
 *   EACH  L = 128: (-128)(-128) twice would be 32768, so sadalp after each product
 *
 * smlal adds 8 products: without sadalp, loads and all else, 1/8 = 0.125 instructions each; PAIR 3/16. */
#include "int_isa.h"
#if defined(__aarch64__)
#include "gemm_neon.h"

#define ROWS 3
#define HALF 8   /* columns whose sums fit the registers */
#define GROUP 16 /* k in one vector of activations or weights */
enum { DEEP, PAIR, EACH };

/* A lane for each of 16 or 8 k: int32 for PAIR and EACH, int16 for DEEP. */
typedef union {
    int32x4_t words;
    int16x8_t shorts;
} accumulator;

/* One group of one row times that of one column. As intrinsics compilers would order the sums one after
 * another. */
ALWAYS void multiply_add(accumulator *sum, int8x16_t x, int8x16_t w, int kind)
{
    int16x8_t products;
    if (kind == DEEP)
        __asm__ volatile("smlal %0.8h, %1.8b, %2.8b\n\tsmlal2 %0.8h, %1.16b, %2.16b"
                         : "+w"(sum->shorts)
                         : "w"(x), "w"(w));
    else if (kind == PAIR)
        __asm__ volatile("smull %1.8h, %2.8b, %3.8b\n\tsmlal2 %1.8h, %2.16b, %3.16b\n\tsadalp %0.4s, %1.8h"
                         : "+w"(sum->words), "=&w"(products)
                         : "w"(x), "w"(w));
    else
        __asm__ volatile("smull %1.8h, %2.8b, %3.8b\n\tsadalp %0.4s, %1.8h\n\t"
                         "smull2 %1.8h, %2.16b, %3.16b\n\tsadalp %0.4s, %1.8h"
                         : "+w"(sum->words), "=&w"(products)
                         : "w"(x), "w"(w));
}

ALWAYS void add_group(const uint8_t *a, ptrdiff_t row, const uint8_t *w, tables levels, int rows, int bits,
                      int kind, accumulator sums[][HALF])
{
    int8x16_t x[ROWS];
#pragma GCC unroll 3
    for (int r = 0; r < rows; r++)
        x[r] = vreinterpretq_s8_u8(veorq_u8(vld1q_u8(a + r * row), vdupq_n_u8(0x80)));
#pragma GCC unroll 4
    for (int c = 0; c < HALF; c += held_by_load(bits)) {
        int8x16_t lanes[4];
        load_levels(&w, bits, levels, lanes);
#pragma GCC unroll 4
        for (int i = 0; i < held_by_load(bits); i++)
#pragma GCC unroll 3
            for (int r = 0; r < rows; r++)
                multiply_add(&sums[r][c + i], x[r], lanes[i], kind);
    }
}

/* to += the int16 sums, which begin anew. As intrinsics compilers move the sums to other registers and back.
 */
ALWAYS void widen(int rows, accumulator sums[][HALF], int32x4_t to[][HALF])
{
    int32x4_t *place = to[0], low, high;
#pragma GCC unroll 3
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
        for (int c = 0; c < HALF; c += 2)
            __asm__ volatile("ldp %q3, %q4, [%2]\n\tsadalp %3.4s, %0.8h\n\tsadalp %4.4s, %1.8h\n\t"
                             "stp %q3, %q4, [%2], #32\n\tmovi %0.16b, #0\n\tmovi %1.16b, #0"
                             : "+w"(sums[r][c].shorts), "+w"(sums[r][c + 1].shorts), "+r"(place), "=&w"(low),
                               "=&w"(high)
                             :
                             : "memory");
}

/* The sums of the lanes of four vectors. */
ALWAYS int32x4_t sum_lanes(const int32x4_t *of)
{
    return vpaddq_s32(vpaddq_s32(of[0], of[1]), vpaddq_s32(of[2], of[3]));
}

/* Store eight columns of the tile: the sums of the lanes of `wide`. */
static __attribute__((noinline)) void finish(const int_tile *t, int column, int32x4_t wide[][HALF])
{
    int32_t results[ROWS][HALF];
    for (int r = 0; r < t->rows; r++)
        for (int c = 0; c < HALF; c += 4)
            vst1q_s32(results[r] + c, vaddq_s32(vld1q_s32(t->start + column + c), sum_lanes(wide[r] + c)));
    store_rows(t, column, HALF, results[0]);
}

/* The product of all rows with eight columns of the panel, from `column` on. */
ALWAYS void product_of_half(const int_tile *t, int column, tables levels, int rows, int bits, int kind)
{
    const int depth =
        kind == DEEP ? 32767 / (128 * t->weights->largest + 1) / 2 : 0; /* groups: 2 products a lane */
    const uint8_t *w = (const uint8_t *)t->w + 2 * bits * column;
    accumulator sums[ROWS][HALF];
    int32x4_t wide[ROWS][HALF];
    int left = depth;
#pragma GCC unroll 3
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 8
        for (int c = 0; c < HALF; c++)
            wide[r][c] = sums[r][c].words = vdupq_n_s32(0);
    for (int segment = 0; segment < t->segments; segment++, w += t->segment_bytes) {
        const uint8_t *a = t->a + t->offsets[segment], *group = w;
        for (int g = 0; g < t->groups;) {
            int end = kind == DEEP ? int_min(g + left, t->groups) : t->groups;
            left -= end - g;
            for (; g < end; g++, a += GROUP, group += 2 * bits * COLUMNS)
                add_group(a, t->row, group, levels, rows, bits, kind, sums);
            if (kind == DEEP && !left) {
                widen(rows, sums, wide);
                left = depth;
            }
        }
    }
    if (kind == DEEP)
        widen(rows, sums, wide);
    else
#pragma GCC unroll 3
        for (int r = 0; r < rows; r++)
#pragma GCC unroll 8
            for (int c = 0; c < HALF; c++)
                wide[r][c] = sums[r][c].words;
    finish(t, column, wide);
}

ALWAYS void product(const int_tile *t, int rows, int bits, int kind)
{
    tables levels = load_tables(t->weights->table, bits);
    for (int column = 0; column < t->columns; column += HALF)
        product_of_half(t, column, levels, rows, bits, kind);
}

#define TILE(rows, bits)                                                                                     \
    static void deep_##rows##_##bits(const int_tile *t) { product(t, rows, bits, DEEP); }                    \
    static void pair_##rows##_##bits(const int_tile *t) { product(t, rows, bits, PAIR); }                    \
    static void each_##rows##_##bits(const int_tile *t) { product(t, rows, bits, EACH); }
TILE(1, 8)
TILE(2, 8) TILE(3, 8) TILE(1, 4) TILE(1, 2)

    static void tile(const int_tile *t)
{
    static void (*const tiles[3][3][ROWS])(const int_tile *) = {
        {{deep_1_2}, {deep_1_4}, {deep_1_8, deep_2_8, deep_3_8}},
        {{pair_1_2}, {pair_1_4}, {pair_1_8, pair_2_8, pair_3_8}},
        {{each_1_2}, {each_1_4}, {each_1_8, each_2_8, each_3_8}}};
    int largest = t->weights->largest;
    tiles[largest <= 42 ? DEEP : largest <= 127 ? PAIR : EACH][t->bits / 4][t->rows - 1](t);
}

static const int_isa isa = {.name = "neon",
                            .rows = ROWS,
                            .columns = COLUMNS,
                            .narrow = COLUMNS,
                            .group = GROUP,
                            .vector = VECTOR,
                            .fused_rows = 1,
                            .largest_bytes = 128,
                            .centre = 128,
                            .decode = decode,
                            .tile = tile,
                            .loops = &int_loops_generic};
const int_isa *const int_isa_neon = &isa;
#else
const int_isa *const int_isa_neon = NULL;
#endif
