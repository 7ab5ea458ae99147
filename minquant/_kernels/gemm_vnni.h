/* Products with vpdpbusd, which adds four products u8 x s8 to each int32 lane, in vectors of VECTOR bytes.
 * The including file defines ROWS and FUSED_ROWS, and finishes tiles: store(t, row, column, sums); then its
 * tiles, TILE and FUSED, in tables, decoded[rows - 1] and fused[bits / 4][rows - 1], and VNNI_ISA.
 *
 * Bound: none but INT_MAX_K; vpdpbusd adds exactly, modulo 2^32. */
#include "gemm_x86.h"

#define LANES (VECTOR / 4)

/* Defined below the loops: write the sums of LANES columns from `column` on, or of as many as there are. */
ALWAYS void store(const int_tile *t, int row, int column, vec sums);

/* acc[lane] += a[4 lane] w[4 lane] + .. + a[4 lane + 3] w[4 lane + 3]. GCC 12 copies the accumulator of the
 * intrinsic in every step and spills large tiles; a tied operand cannot be copied. */
ALWAYS void dot(vec *acc, vec a, vec w)
{
#if VECTOR == 64
    __asm__("vpdpbusd %2, %1, %0" : "+v"(*acc) : "v"(a), "v"(w));
#else
    __asm__("%{vex%} vpdpbusd %2, %1, %0" : "+x"(*acc) : "x"(a), "x"(w));
#endif
}

ALWAYS vec add(vec a, vec b)
{
#if VECTOR == 64
    return _mm512_add_epi32(a, b);
#else
    return _mm256_add_epi32(a, b);
#endif
}

ALWAYS void decode_panel(const int_weights *w, const uint8_t *from, size_t codes, int bits, uint8_t *to)
{
    tables t = load_tables(w->table, bits);
    for (size_t done = 0; done < codes; done += VECTOR * (size_t)(8 / bits), from += VECTOR) {
        vec lanes[4];
        decode_vector(from, bits, t, lanes);
        for (int i = 0; i < 8 / bits; i++, to += VECTOR)
            save(to, lanes[i]);
    }
}

static void decode(const int_weights *w, const uint8_t *from, size_t codes, void *to)
{
    if (w->bits == 4)
        decode_panel(w, from, codes, 4, to);
    else
        decode_panel(w, from, codes, 2, to);
}

/* acc[0] += the product over `sets` groups of k, each in its own set of accumulators: dot takes 4-5 cycles,
 * and only 10 independent ones keep both units busy. Lane i of a decoded vector is vector i % vectors of
 * group i / vectors. */
ALWAYS void add_groups(const uint8_t *a, ptrdiff_t row, const uint8_t *w, tables t, int rows, int vectors,
                       int bits, int sets, vec acc[][ROWS][2])
{
    vec lanes[8];
#pragma GCC unroll 8
    for (int i = 0; i < sets * vectors; i += 8 / bits)
        decode_vector(w + VECTOR / 8 * bits * i, bits, t, lanes + i);
#pragma GCC unroll 4
    for (int s = 0; s < sets; s++)
#pragma GCC unroll 14
        for (int r = 0; r < rows; r++) {
            vec x = repeat4(load4(a + r * row + 4 * s));
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
    vec acc[4][ROWS][2];
#pragma GCC unroll 4
    for (int s = 0; s < sets; s++)
#pragma GCC unroll 14
        for (int r = 0; r < rows; r++)
#pragma GCC unroll 2
            for (int v = 0; v < vectors; v++)
                acc[s][r][v] = s ? repeat4(0) : load(t->start + LANES * v);
    for (int segment = 0; segment < t->segments; segment++) {
        const uint8_t *a = t->a + t->offsets[segment];
        const uint8_t *w = (const uint8_t *)t->w + segment * t->segment_bytes;
        int g = 0;
        for (; g + sets <= t->groups; g += sets, a += 4 * sets, w += VECTOR / 8 * bits * vectors * sets)
            add_groups(a, t->row, w, levels, rows, vectors, bits, sets, acc);
        for (; g < t->groups; g += least, a += 4 * least, w += VECTOR / 8 * bits * vectors * least)
            add_groups(a, t->row, w, levels, rows, vectors, bits, least, acc);
    }
#pragma GCC unroll 14
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 2
        for (int v = 0; v < vectors; v++) {
            vec sum = acc[0][r][v];
#pragma GCC unroll 4
            for (int s = 1; s < sets; s++)
                sum = add(sum, acc[s][r][v]);
            store(t, r, LANES * v, sum);
        }
}

#define TILE(rows, bits)                                \
    static void tile_##rows##_##bits(const int_tile *t) \
    {                                                   \
        if (t->columns > LANES)                         \
            product(t, rows, 2, bits);                  \
        else                                            \
            product(t, rows, 1, bits);                  \
    }
#define FUSED(rows) \
    TILE(rows, 8)   \
    TILE(rows, 4)   \
    TILE(rows, 2)

#define VNNI_ISA(its_name, its_rate, its_loops, its_floats)                                                \
    static void tile(const int_tile *t) { (t->bits == 8 ? decoded : fused[t->bits / 4])[t->rows - 1](t); } \
    static const int_isa isa = {.name = its_name,                                                          \
                                .rate = its_rate,                                                          \
                                .rows = ROWS,                                                              \
                                .columns = 2 * LANES,                                                      \
                                .narrow = LANES,                                                           \
                                .group = 4,                                                                \
                                .vector = VECTOR,                                                          \
                                .fused_rows = FUSED_ROWS,                                                  \
                                .widest_product = INT_MAX_PRODUCT,                                         \
                                .decode = decode,                                                          \
                                .tile = tile,                                                              \
                                .loops = its_loops,                                                        \
                                .floats = its_floats,                                                      \
                                .settles = VECTOR == 64}
