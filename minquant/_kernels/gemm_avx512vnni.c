/* Products with AVX-512 VNNI: vpdpbusd adds four products u8 x s8 to each of 16 int32 lanes.
 *
 * Bound: none but INT_MAX_K; vpdpbusd adds exactly, modulo 2^32. */
#include "int_isa.h"
#if defined(__AVX512VNNI__) && defined(__AVX512BW__) && defined(__AVX512VL__)
#include "gemm_x86.h"

#define ROWS 14
#define ALWAYS static inline __attribute__((always_inline))

/* acc[lane] += a[4 lane] w[4 lane] + .. + a[4 lane + 3] w[4 lane + 3]. GCC 12 copies the accumulator of the
 * intrinsic in every step and spills large tiles; a tied operand cannot be copied. */
ALWAYS void dot(__m512i *acc, __m512i a, __m512i w)
{
    __asm__("vpdpbusd %2, %1, %0" : "+v"(*acc) : "v"(a), "v"(w));
}

/* The tables of one shuffle: for a nibble of 4-bit codes, or for the low and high of two 2-bit codes. */
typedef struct {
    __m512i low, high;
} tables;

ALWAYS tables load_tables(const int8_t *levels, int bits)
{
    int8_t both[2][16];
    for (int i = 0; i < 16; i++) {
        both[0][i] = levels[bits == 2 ? i & 3 : i];
        both[1][i] = levels[bits == 2 ? i >> 2 : i];
    }
    return (tables){_mm512_broadcast_i32x4(_mm_loadu_si128((const void *)both[0])),
                    _mm512_broadcast_i32x4(_mm_loadu_si128((const void *)both[1]))};
}

/* lanes[i][j] = levels[(from[j] >> bits * i) & (2^bits - 1)] */
ALWAYS void decode_vector(const uint8_t *from, int bits, tables t, __m512i *lanes)
{
    const __m512i nibble = _mm512_set1_epi8(15);
    __m512i codes = _mm512_loadu_si512(from);
    __m512i even = _mm512_and_si512(codes, nibble);
    __m512i odd = _mm512_and_si512(_mm512_srli_epi16(codes, 4), nibble);
    lanes[0] = _mm512_shuffle_epi8(t.low, even);
    if (bits == 4) {
        lanes[1] = _mm512_shuffle_epi8(t.low, odd);
        return;
    }
    lanes[1] = _mm512_shuffle_epi8(t.high, even);
    lanes[2] = _mm512_shuffle_epi8(t.low, odd);
    lanes[3] = _mm512_shuffle_epi8(t.high, odd);
}

ALWAYS void decode_panel(const int_weights *w, const uint8_t *from, size_t codes, int bits, uint8_t *to)
{
    tables t = load_tables(w->table, bits);
    for (size_t done = 0; done < codes; done += 64 * (size_t)(8 / bits), from += 64) {
        __m512i lanes[4];
        decode_vector(from, bits, t, lanes);
#pragma GCC unroll 4
        for (int i = 0; i < 8 / bits; i++, to += 64)
            _mm512_store_si512(to, lanes[i]);
    }
}

static void decode(const int_weights *w, const uint8_t *from, size_t codes, void *to)
{
    if (w->bits == 4)
        decode_panel(w, from, codes, 4, to);
    else
        decode_panel(w, from, codes, 2, to);
}

/* to[j] = clip(rint(acc[j] * multiplier[j] + offset[j]), 0, top); clipping first gives the same code */
ALWAYS void store_codes(const int_requantization *q, int column, __m512i acc, int count, uint8_t *to)
{
    __m512 y = _mm512_mul_ps(_mm512_cvtepi32_ps(acc), _mm512_loadu_ps(q->multiplier + column));
    y = _mm512_add_ps(y, _mm512_loadu_ps(q->offset + column));
    y = _mm512_min_ps(_mm512_max_ps(y, _mm512_setzero_ps()), _mm512_set1_ps((float)q->top));
    __m512i codes = _mm512_cvt_roundps_epi32(y, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m128i bytes = _mm512_cvtepi32_epi8(codes);
    if (count >= 16)
        _mm_storeu_si128((__m128i *)(void *)to, bytes);
    else
        _mm_mask_storeu_epi8(to, (__mmask16)((1u << count) - 1), bytes);
}

ALWAYS void store(const int_tile *t, int row, int column, __m512i acc)
{
    int count = t->columns - column;
    if (count <= 0)
        return;
    if (t->q)
        store_codes(t->q, column, acc, count, (uint8_t *)t->out + row * t->out_row + column);
    else
        _mm512_mask_storeu_epi32((int32_t *)t->out + row * t->out_row + column,
                                 count >= 16 ? (__mmask16)0xffff : (__mmask16)((1u << count) - 1), acc);
}

/* acc[0] += the product over `sets` groups of k, each in its own set of accumulators: dot takes 4-5 cycles,
 * and only 10 independent ones keep both units busy. Lane i of a decoded vector is vector i % vectors of
 * group i / vectors. */
ALWAYS void add_groups(const uint8_t *a, ptrdiff_t row, const uint8_t *w, tables t, int rows, int vectors,
                       int bits, int sets, __m512i acc[][ROWS][2])
{
    __m512i lanes[8];
#pragma GCC unroll 8
    for (int i = 0; i < sets * vectors; i += 8 / bits)
        if (bits == 8)
            lanes[i] = _mm512_loadu_si512(w + 64 * i);
        else
            decode_vector(w + 8 * bits * i, bits, t, lanes + i);
#pragma GCC unroll 4
    for (int s = 0; s < sets; s++)
#pragma GCC unroll 14
        for (int r = 0; r < rows; r++) {
            __m512i x = _mm512_set1_epi32(load4(a + r * row + 4 * s));
#pragma GCC unroll 2
            for (int v = 0; v < vectors; v++)
                dot(&acc[s][r][v], x, lanes[s * vectors + v]);
        }
}

ALWAYS void product(const int_tile *t, int rows, int vectors, int bits)
{
    const int least = bits * vectors < 8 ? 8 / bits / vectors : 1; /* groups in one load */
    const int wanted = rows * vectors >= 8 ? 1 : rows * vectors >= 4 ? 2 : 4;
    const int sets = wanted > least ? wanted : least;
    tables levels = load_tables(t->weights->table, bits);
    __m512i acc[4][ROWS][2];
#pragma GCC unroll 4
    for (int s = 0; s < sets; s++)
#pragma GCC unroll 14
        for (int r = 0; r < rows; r++)
#pragma GCC unroll 2
            for (int v = 0; v < vectors; v++)
                acc[s][r][v] = s ? _mm512_setzero_si512() : _mm512_loadu_si512(t->start + 16 * v);
    for (int segment = 0; segment < t->segments; segment++) {
        const uint8_t *a = t->a + t->offsets[segment];
        const uint8_t *w = (const uint8_t *)t->w + segment * t->segment_bytes;
        int g = 0;
        for (; g + sets <= t->groups; g += sets, a += 4 * sets, w += 8 * bits * vectors * sets)
            add_groups(a, t->row, w, levels, rows, vectors, bits, sets, acc);
        for (; g < t->groups; g += least, a += 4 * least, w += 8 * bits * vectors * least)
            add_groups(a, t->row, w, levels, rows, vectors, bits, least, acc);
    }
#pragma GCC unroll 14
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 2
        for (int v = 0; v < vectors; v++) {
            __m512i sum = acc[0][r][v];
#pragma GCC unroll 4
            for (int s = 1; s < sets; s++)
                sum = _mm512_add_epi32(sum, acc[s][r][v]);
            store(t, r, 16 * v, sum);
        }
}

#define TILE(rows, bits)                                \
    static void tile_##rows##_##bits(const int_tile *t) \
    {                                                   \
        if (t->columns > 16)                            \
            product(t, rows, 2, bits);                  \
        else                                            \
            product(t, rows, 1, bits);                  \
    }
#define FUSED(rows) \
    TILE(rows, 8)   \
    TILE(rows, 4)   \
    TILE(rows, 2)
FUSED(1)
FUSED(2)
FUSED(3)
FUSED(4)
TILE(5, 8)
TILE(6, 8)
TILE(7, 8)
TILE(8, 8)
TILE(9, 8)
TILE(10, 8)
TILE(11, 8)
TILE(12, 8)
TILE(13, 8)
TILE(14, 8)

static void tile(const int_tile *t)
{
    static void (*const decoded[ROWS])(const int_tile *) = {
        tile_1_8, tile_2_8, tile_3_8,  tile_4_8,  tile_5_8,  tile_6_8,  tile_7_8,
        tile_8_8, tile_9_8, tile_10_8, tile_11_8, tile_12_8, tile_13_8, tile_14_8};
    static void (*const fused[2][4])(const int_tile *) = {{tile_1_2, tile_2_2, tile_3_2, tile_4_2},
                                                          {tile_1_4, tile_2_4, tile_3_4, tile_4_4}};
    (t->bits == 8 ? decoded : fused[t->bits / 4])[t->rows - 1](t);
}

static const int_isa isa = {.name = "avx512vnni",
                            .rows = ROWS,
                            .columns = 32,
                            .narrow = 16,
                            .group = 4,
                            .vector = 64,
                            .fused_rows = 4,
                            .largest_bytes = 128,
                            .decode = decode,
                            .tile = tile,
                            .loops = &int_loops_avx512vnni};
const int_isa *const int_isa_avx512vnni = &isa;
#else
const int_isa *const int_isa_avx512vnni = NULL;
#endif
