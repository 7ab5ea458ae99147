/* Products with AMX: tiles of up to 16 rows of 64 bytes, of which one instruction multiplies two and adds to
 * a third. Panels are those of gemm_avx512vnni.c: 16 columns of 16 groups of k are a tile as it lies in
 * memory.
 *
 *         64 bytes of k      4 k of 16 columns         16 columns of int32
 *       +---------------+   +----------------+        +-------------------+
 *   row |  activations  | x |   weights      | group  |       sums        | row
 *       +---------------+   +----------------+        +-------------------+
 *
 * A product is made of 32 rows times 32 columns, in four tiles of sums. Few rows, short segments and weights
 * that are decoded in registers are left to AVX-512 VNNI.
 *
 * Bound: none but INT_MAX_K; tdpbusd adds exactly, modulo 2^32. */
#include "amx_tiles.h"
#include "int_isa.h"
#if defined(HAS_AMX) && defined(__AVX512VNNI__) && defined(__AVX512BW__) && defined(__AVX512VL__)
#define VECTOR 64
#define HALF TILE_ROWS /* rows and columns of a tile of sums; most groups of a tile of weights */
#define ROWS (2 * HALF)
/* Below so many rows, or vectors of products, AVX-512 VNNI is quicker than loading shapes of tiles. */
#define LEAST_ROWS 4
#define LEAST_WORK 600
#include "gemm_avx512.h"

/* Tiles: 0, 1: sums of the upper rows; 2, 3: of the lower; 4, 5: upper and lower rows of activations; 6, 7:
 * left and right columns of weights. */

/* For so many rows and groups; loading takes longer than a small product, so only where they change. */
ALWAYS void configure(int *tiles, int upper, int lower, int groups)
{
    tile_shapes c = {.palette = 1};
    int shape = upper << 16 | lower << 8 | groups;
    if (*tiles == shape)
        return;
    *tiles = shape;
    for (int i = 0; i < 8; i++) {
        int is_lower = i == 2 || i == 3 || i == 5, is_weights = i >= 6;
        int rows = is_weights ? groups : !is_lower ? upper : lower ? lower : 1; /* no tile may be empty */
        c.rows[i] = (uint8_t)rows;
        c.bytes[i] = (uint16_t)(i == 4 || i == 5 ? 4 * groups : TILE_BYTES);
    }
    configure_tiles(&c);
}

/* Adds `steps` times `groups` groups of each segment, from group `first` on, to the tiles of sums. */
ALWAYS void add_groups(const int_tile *t, int first, int groups, int steps, int tall, int wide)
{
    const ptrdiff_t group_bytes = wide ? 2 * TILE_BYTES : TILE_BYTES;
    for (int segment = 0; segment < t->segments; segment++) {
        const uint8_t *a = t->a + t->offsets[segment] + 4 * first;
        const uint8_t *w = (const uint8_t *)t->w + segment * t->segment_bytes + group_bytes * first;
        for (int i = 0; i < steps; i++, a += 4 * groups, w += group_bytes * groups) {
            LOAD_TILE(4, a, t->row);
            LOAD_TILE(6, w, group_bytes);
            MULTIPLY_TILES(0, 4, 6);
            if (wide) {
                LOAD_TILE(7, w + TILE_BYTES, group_bytes);
                MULTIPLY_TILES(1, 4, 7);
            }
            if (tall) {
                LOAD_TILE(5, a + t->lower, t->row);
                MULTIPLY_TILES(2, 5, 6);
                if (wide)
                    MULTIPLY_TILES(3, 5, 7);
            }
        }
    }
}

typedef int32_t sums[ROWS][2 * HALF];

#define MOVE_SUMS(how, to)                           \
    do {                                             \
        how(0, &(to)[0][0], sizeof *(to));           \
        if (wide)                                    \
            how(1, &(to)[0][HALF], sizeof *(to));    \
        if (tall)                                    \
            how(2, &(to)[HALF][0], sizeof *(to));    \
        if (tall && wide)                            \
            how(3, &(to)[HALF][HALF], sizeof *(to)); \
    } while (0)

/* A segment is equal parts, as few as there may be, and a rest that is shorter. */
ALWAYS void product(const int_tile *t, int tall, int wide, int32_t (*to)[2 * HALF])
{
    int parts = (t->groups + HALF - 1) / HALF, groups = (t->groups + parts - 1) / parts;
    int steps = t->groups / groups, rest = t->groups % groups;
    configure(t->tiles, t->upper, t->rows - t->upper, groups);
    ZERO_TILE(0);
    ZERO_TILE(1);
    ZERO_TILE(2);
    ZERO_TILE(3);
    add_groups(t, 0, groups, steps, tall, wide);
    MOVE_SUMS(STORE_TILE, to);
    if (rest) {
        configure(t->tiles, t->upper, t->rows - t->upper, rest);
        MOVE_SUMS(LOAD_TILE, to);
        add_groups(t, groups * steps, rest, 1, tall, wide);
        MOVE_SUMS(STORE_TILE, to);
    }
}

/* Codes of four rows of 16 sums, as store_codes computes them, in one vector: packing clips at 0. */
ALWAYS vec four_codes(const int32_t (*from)[2 * HALF], vec start, __m512 multiplier, __m512 offset,
                      __m512 top)
{
    vec rows[4];
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        __m512 y = _mm512_cvtepi32_ps(_mm512_add_epi32(load(from[i]), start));
        y = _mm512_min_ps(_mm512_add_ps(_mm512_mul_ps(y, multiplier), offset), top);
        rows[i] = _mm512_cvt_roundps_epi32(y, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    }
    vec codes =
        _mm512_packus_epi16(_mm512_packs_epi32(rows[0], rows[1]), _mm512_packs_epi32(rows[2], rows[3]));
    /* each quarter holds 4 columns of all rows */
    return _mm512_permutexvar_epi32(_mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15),
                                    codes);
}

/* Stores the first rows, a multiple of 4, of 16 columns as codes; returns how many. */
ALWAYS int store_fours(const int_tile *t, int rows, int column, vec start, const int32_t (*from)[2 * HALF])
{
    __m512 multiplier = _mm512_loadu_ps(t->q->multiplier + column),
           offset = _mm512_loadu_ps(t->q->offset + column), top = _mm512_set1_ps((float)t->q->top);
    uint8_t *to = (uint8_t *)t->out + column;
    ptrdiff_t out_row = t->out_row;
    int row = 0;
    for (; row + 4 <= rows; row += 4, to += 4 * out_row) {
        vec codes = four_codes(from + row, start, multiplier, offset, top);
        _mm_storeu_si128((__m128i *)(void *)to, _mm512_castsi512_si128(codes));
        _mm_storeu_si128((__m128i *)(void *)(to + out_row), _mm512_extracti32x4_epi32(codes, 1));
        _mm_storeu_si128((__m128i *)(void *)(to + 2 * out_row), _mm512_extracti32x4_epi32(codes, 2));
        _mm_storeu_si128((__m128i *)(void *)(to + 3 * out_row), _mm512_extracti32x4_epi32(codes, 3));
    }
    return row;
}

static void store_rows(const int_tile *t, int rows, const int32_t (*from)[2 * HALF])
{
    for (int column = 0; column < t->columns; column += HALF) {
        vec start = load(t->start + column);
        const int32_t(*first)[2 * HALF] = (const int32_t(*)[2 * HALF])(const void *)(&from[0][column]);
        int row = t->q && t->columns - column >= HALF ? store_fours(t, rows, column, start, first) : 0;
        for (; row < rows; row++)
            store(t, row, column, _mm512_add_epi32(load(&from[row][column]), start));
    }
}

/* The rows from row `first` on, as a tile of their own. */
static int_tile part(const int_tile *whole, int first, int rows)
{
    int_tile t = *whole;
    int is_lower = first >= whole->upper, ahead = is_lower ? first - whole->upper : first;
    ptrdiff_t place = (is_lower ? whole->out_lower : 0) + ahead * whole->out_row;
    t.rows = rows;
    t.a = whole->a + (is_lower ? whole->lower : 0) + ahead * whole->row;
    t.out = (uint8_t *)whole->out + place * (ptrdiff_t)(t.q ? 1 : sizeof(int32_t));
    return t;
}

static void multiply(const int_tile *t)
{
    sums to __attribute__((aligned(64)));
    int is_tall = t->rows > t->upper, is_wide = t->columns > HALF;
    if (is_tall && is_wide)
        product(t, 1, 1, to);
    else if (is_tall)
        product(t, 1, 0, to);
    else if (is_wide)
        product(t, 0, 1, to);
    else
        product(t, 0, 0, to);
    store_rows(t, t->upper, to);
    if (is_tall) {
        int_tile lower = part(t, t->upper, t->rows - t->upper);
        store_rows(&lower, lower.rows, to + HALF);
    }
}

/* The same product in tiles of the instruction set that has the same panels. */
static void multiply_vectors(const int_tile *whole)
{
    for (int row = 0; row < whole->rows;) {
        int end = row < whole->upper ? whole->upper : whole->rows;
        int_tile t = part(whole, row, int_min(VNNI_ROWS, end - row));
        int_isa_avx512vnni->tile(&t);
        row += t.rows;
    }
}

static void tile(const int_tile *t)
{
    int vectors = t->segments * t->groups * (t->columns > HALF ? 2 : 1);
    if (t->bits == 8 && t->rows >= LEAST_ROWS && t->rows * vectors >= LEAST_WORK)
        multiply(t);
    else
        multiply_vectors(t);
}

static void decode(const int_weights *w, const uint8_t *from, size_t codes, void *to)
{
    int_isa_avx512vnni->decode(w, from, codes, to);
}

static const int_isa isa = {.name = "amx",
                            .rate = 800,
                            .rows = ROWS,
                            .takes_pairs = 1,
                            .columns = 2 * HALF,
                            .narrow = HALF,
                            .group = 4,
                            .vector = VECTOR,
                            .fused_rows = VNNI_FUSED_ROWS,
                            .widest_product = INT_MAX_PRODUCT,
                            .decode = decode,
                            .tile = tile,
                            .release = release_tiles,
                            .loops = &int_loops_avx512vnni,
                            .floats = &codebook_isa_avx512vnni};
const int_isa *const int_isa_amx = &isa;
#else
const int_isa *const int_isa_amx = NULL;
#endif
