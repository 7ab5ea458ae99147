/* Products with the NEON of every 64-bit ARM processor, which has no dot product: smull and smlal multiply s8
 * x s8 and add in 8 lanes of int16, sadalp adds pairs of these to 4 lanes of int32; mla multiplies and adds
 * in 16 lanes of int8. Activations beyond 127 are read as a - 128 (`centre`). P is the greatest magnitude of
 * a product, that of an activation, so read, times that of a level; it decides how long sums stay narrow:
 *
 *   BYTE  P depth <= 127 with depth >= 6, so P <= 21: mla over `depth` products per lane, then to int32
 *         (activations and codes of 2 bits, 3 * 2: 21 products)
 *   DEEP  P depth <= 32767 with depth >= 6, so P <= 5461: smlal over `depth` products per lane, then sadalp
 *         (any activations, 128 * 8: 31 products with 4-bit codes; 128 * 2: 127 with 2-bit codes)
 *   PAIR  2 P <= 32767, so P <= 16383: two products per lane (128 * 127 = 16256), then sadalp
 *   EACH  P = 128 * 128: twice would be 32768, so sadalp after each product
 *
 * mla adds 16 products: without sadalp, loads and all else 1/16 = 0.0625 instructions each; smlal 1/8 =
 * 0.125; PAIR 3/16 = 0.1875. */
#include "int_isa.h"
#if defined(__aarch64__)
#include "gemm_neon.h"

#define ROWS 3
#define HALF 8       /* columns whose sums fit the registers */
#define PLAIN_TOP 42 /* 42 * 128 <= 5461: BYTE or DEEP with any level */
#define GROUP 16     /* k in one vector of activations or weights */
enum { BYTE, DEEP, PAIR, EACH };

/* int32 for PAIR and EACH, int16 for DEEP, int8 for BYTE. */
typedef union {
    int32x4_t words;
    int16x8_t shorts;
    int8x16_t bytes;
} accumulator;

/* One group of one row times that of one column. As intrinsics compilers would order the sums one after
 * another. */
ALWAYS void multiply_add(accumulator *sum, int8x16_t x, int8x16_t w, int kind)
{
    int16x8_t products;
    if (kind == BYTE)
        __asm__ volatile("mla %0.16b, %1.16b, %2.16b" : "+w"(sum->bytes) : "w"(x), "w"(w));
    else if (kind == DEEP)
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
                      int kind, int centred, accumulator sums[][HALF])
{
    int8x16_t x[ROWS];
#pragma GCC unroll 3
    for (int r = 0; r < rows; r++) {
        uint8x16_t codes = vld1q_u8(a + r * row);
        x[r] = vreinterpretq_s8_u8(centred ? veorq_u8(codes, vdupq_n_u8(0x80)) : codes);
    }
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

/* to += the narrow sums, which begin anew. As intrinsics compilers move the sums to other registers and back.
 */
ALWAYS void widen(int rows, int kind, accumulator sums[][HALF], int32x4_t to[][HALF])
{
    int32x4_t *place = to[0], low, high;
#pragma GCC unroll 3
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
        for (int c = 0; c < HALF; c += 2) {
            if (kind == BYTE)
                __asm__ volatile("saddlp %0.8h, %0.16b\n\tsaddlp %1.8h, %1.16b"
                                 : "+w"(sums[r][c].bytes), "+w"(sums[r][c + 1].bytes));
            __asm__ volatile("ldp %q3, %q4, [%2]\n\tsadalp %3.4s, %0.8h\n\tsadalp %4.4s, %1.8h\n\t"
                             "stp %q3, %q4, [%2], #32\n\tmovi %0.16b, #0\n\tmovi %1.16b, #0"
                             : "+w"(sums[r][c].shorts), "+w"(sums[r][c + 1].shorts), "+r"(place), "=&w"(low),
                               "=&w"(high)
                             :
                             : "memory");
        }
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

/* Groups that narrow sums take: of one product a lane in int8, of two in int16. */
ALWAYS int depth_of(const int_weights *w, int kind)
{
    int most = kind == BYTE ? 127 : 32767 / 2;
    return kind > DEEP ? 0 : w->product ? most / w->product : most;
}

/* The product of all rows with eight columns of the panel, from `column` on. */
ALWAYS void product_of_half(const int_tile *t, int column, tables levels, int rows, int bits, int kind,
                            int centred)
{
    const int depth = depth_of(t->weights, kind), deep = kind <= DEEP;
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
            int end = deep ? int_min(g + left, t->groups) : t->groups;
            left -= end - g;
            for (; g < end; g++, a += GROUP, group += 2 * bits * COLUMNS)
                add_group(a, t->row, group, levels, rows, bits, kind, centred, sums);
            if (deep && !left) {
                widen(rows, kind, sums, wide);
                left = depth;
            }
        }
    }
    if (deep)
        widen(rows, kind, sums, wide);
    else
#pragma GCC unroll 3
        for (int r = 0; r < rows; r++)
#pragma GCC unroll 8
            for (int c = 0; c < HALF; c++)
                wide[r][c] = sums[r][c].words;
    finish(t, column, wide);
}

ALWAYS void product(const int_tile *t, int rows, int bits, int kind, int centred)
{
    tables levels = load_tables(t->weights->table, bits);
    for (int column = 0; column < t->columns; column += HALF)
        product_of_half(t, column, levels, rows, bits, kind, centred);
}

#define KINDS(rows, bits)                                                                     \
    static void byte_##rows##_##bits(const int_tile *t) { product(t, rows, bits, BYTE, 0); }  \
    static void plain_##rows##_##bits(const int_tile *t) { product(t, rows, bits, DEEP, 0); } \
    static void deep_##rows##_##bits(const int_tile *t) { product(t, rows, bits, DEEP, 1); }  \
    static void pair_##rows##_##bits(const int_tile *t) { product(t, rows, bits, PAIR, 1); }  \
    static void each_##rows##_##bits(const int_tile *t) { product(t, rows, bits, EACH, 1); }
KINDS(1, 8)
KINDS(2, 8)
KINDS(3, 8)
KINDS(1, 4)
KINDS(1, 2)

static void tile(const int_tile *t)
{
    static void (*const tiles[5][3][ROWS])(const int_tile *) = {
        {{byte_1_2}, {byte_1_4}, {byte_1_8, byte_2_8, byte_3_8}},
        {{plain_1_2}, {plain_1_4}, {plain_1_8, plain_2_8, plain_3_8}},
        {{deep_1_2}, {deep_1_4}, {deep_1_8, deep_2_8, deep_3_8}},
        {{pair_1_2}, {pair_1_4}, {pair_1_8, pair_2_8, pair_3_8}},
        {{each_1_2}, {each_1_4}, {each_1_8, each_2_8, each_3_8}}};
    int product = t->weights->product, kind = t->weights->centre ? 2 : 1;
    if (!t->weights->centre && product <= 21)
        kind = 0;
    else if (product > 5461)
        kind = product <= 16383 ? 3 : 4;
    tiles[kind][t->bits / 4][t->rows - 1](t);
}

static const int_isa isa = {.name = "neon",
                            .rate = 25,
                            .rows = ROWS,
                            .columns = COLUMNS,
                            .narrow = COLUMNS,
                            .group = GROUP,
                            .vector = VECTOR,
                            .fused_rows = 1,
                            .widest_product = INT_MAX_PRODUCT,
                            .centre = 128,
                            .plain_top = PLAIN_TOP,
                            .decode = decode,
                            .tile = tile,
                            .loops = &int_loops_neon,
                            .floats = &codebook_isa_neon};
const int_isa *const int_isa_neon = &isa;
#else
const int_isa *const int_isa_neon = NULL;
#endif
