/* Products with AVX2, which has no 8-bit dot product: vpmaddubsw adds two products u8 x s8 in int16 and
 * saturates. So the greatest magnitude P of a product, that of an activation times that of a level, decides
 * how long sums stay in int16:
 *
 *   DEEP  2 * P * depth <= 32767 with depth >= 4, so P <= 4095: vpaddw over `depth` groups, then to int32
 *         (activations up to 255: 4-bit codes, 255 * 8: 8 groups = 16 products a lane; 2-bit codes, 255 * 2:
 *         32 groups = 64 products. Activations of 4 bits, 15 * 128: 8 groups with any weights)
 *   EACH  2 * P <= 32767, so P <= 16383: widened in every group
 *   WIDE  any P: weights in int16, vpmaddwd; a panel is decoded to int16 first
 */
#include "int_isa.h"
#ifdef __AVX2__
#define VECTOR 32
#include "gemm_finish.h"
#include "gemm_x86.h"

#define ROWS 6
#define WIDE_ROWS 3
enum { DEEP, EACH, WIDE };

ALWAYS __m256i low_words(__m256i bytes) { return _mm256_cvtepi8_epi16(_mm256_castsi256_si128(bytes)); }
ALWAYS __m256i high_words(__m256i bytes) { return _mm256_cvtepi8_epi16(_mm256_extracti128_si256(bytes, 1)); }

ALWAYS void decode_panel(const int_weights *w, const uint8_t *from, size_t codes, int bits, uint8_t *to)
{
    tables t = load_tables(w->table, bits);
    for (size_t done = 0; done < codes; done += 32 * (size_t)(8 / bits), from += 32) {
        __m256i lanes[4];
        decode_vector(from, bits, t, lanes);
        for (int i = 0; i < 8 / bits; i++) {
            if (w->wide) {
                _mm256_store_si256((void *)to, low_words(lanes[i]));
                _mm256_store_si256((void *)(to + 32), high_words(lanes[i]));
            } else {
                _mm256_store_si256((void *)to, lanes[i]);
            }
            to += w->wide ? 64 : 32;
        }
    }
}

static void decode(const int_weights *w, const uint8_t *from, size_t codes, void *to)
{
    if (w->bits == 8)
        decode_panel(w, from, codes, 8, to);
    else if (w->bits == 4)
        decode_panel(w, from, codes, 4, to);
    else
        decode_panel(w, from, codes, 2, to);
}

/* DEEP: groups that int16 takes, a multiple of those in one load of codes; below 4 it does not pay. */
ALWAYS int depth_of(const int_weights *w) { return w->product ? 32767 / (2 * w->product) & ~3 : 1 << 14; }

/* A tile's sums: in int16 for DEEP, else int32; WIDE keeps two vectors of partial sums for 8 columns. */
typedef __m256i accumulators[ROWS][4];

/* sum += x * w, by the instructions of its kind. As intrinsics GCC 12 moves all products before the sums, for
 * which there are too few registers. */
ALWAYS void multiply_add(__m256i *sum, __m256i x, const __m256i *w, int kind)
{
    __m256i product;
    if (kind == DEEP)
        __asm__("vpmaddubsw %3, %2, %1\n\tvpaddw %1, %0, %0" : "+x"(*sum), "=&x"(product) : "x"(x), "xm"(*w));
    else if (kind == EACH)
        __asm__("vpmaddubsw %3, %2, %1\n\tvpmaddwd %4, %1, %1\n\tvpaddd %1, %0, %0"
                : "+x"(*sum), "=&x"(product)
                : "x"(x), "xm"(*w), "xm"(_mm256_set1_epi16(1)));
    else
        __asm__("vpmaddwd %3, %2, %1\n\tvpaddd %1, %0, %0" : "+x"(*sum), "=&x"(product) : "x"(x), "m"(*w));
}

/* sums += the product over `groups` groups of 4 k: as many as one load of codes holds. */
ALWAYS void add_groups(const uint8_t *a, ptrdiff_t row, const __m256i *lanes, int rows, int vectors,
                       int groups, int kind, accumulators sums)
{
#pragma GCC unroll 4
    for (int g = 0; g < groups; g++)
#pragma GCC unroll 6
        for (int r = 0; r < rows; r++) {
            __m256i x = repeat4(load4(a + r * row + 4 * g));
#pragma GCC unroll 2
            for (int v = 0; v < vectors; v++)
                multiply_add(&sums[r][v], x, &lanes[g * vectors + v], kind);
        }
}

/* The same with weights of int16: four columns x 4 k in each vector. */
ALWAYS void add_wide(const uint8_t *a, ptrdiff_t row, const __m256i *words, int rows, int vectors,
                     accumulators sums)
{
#pragma GCC unroll 3
    for (int r = 0; r < rows; r++) {
        __m128i four; /* the load repeats them; GCC prefers two instructions */
        __asm__("vpbroadcastd %1, %0" : "=x"(four) : "m"(*(const int(*)[1])(const void *)(a + r * row)));
        __m256i x = _mm256_cvtepu8_epi16(four);
#pragma GCC unroll 4
        for (int v = 0; v < 2 * vectors; v++)
            multiply_add(&sums[r][v], x, words + v, WIDE);
    }
}

ALWAYS void clear(int rows, int vectors, accumulators sums)
{
#pragma GCC unroll 6
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++)
            sums[r][v] = _mm256_setzero_si256();
}

/* to[r] += the sums, brought to int32: one per column */
ALWAYS void add_to(int32_t to[][FINISH_COLUMNS], int rows, int vectors, int kind, accumulators sums)
{
#pragma GCC unroll 6
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 2
        for (int v = 0; v < vectors; v++) {
            __m256i sum = sums[r][v];
            if (kind == DEEP)
                sum = _mm256_madd_epi16(sum, _mm256_set1_epi16(1));
            if (kind == WIDE) /* pairs of neighbours: columns 0 1 4 5 | 2 3 6 7, put in order */
                sum = _mm256_permute4x64_epi64(_mm256_hadd_epi32(sums[r][2 * v], sums[r][2 * v + 1]), 0xd8);
            __m256i *place = (__m256i *)(void *)(to[r] + 8 * v);
            _mm256_storeu_si256(place, _mm256_add_epi32(_mm256_loadu_si256(place), sum));
        }
}

/* What one load of codes holds: `held` groups, decoded in registers, times all rows. */
ALWAYS void add_codes(const uint8_t *a, ptrdiff_t row, const uint8_t *w, tables levels, int rows, int vectors,
                      int bits, int held, int kind, accumulators sums)
{
    __m256i lanes[4], words[4];
#pragma GCC unroll 2
    for (int i = 0; i < held * vectors; i += 8 / bits)
        decode_vector(w + 4 * bits * i, bits, levels, lanes + i);
    if (kind != WIDE) {
        add_groups(a, row, lanes, rows, vectors, held, kind, sums);
        return;
    }
#pragma GCC unroll 4
    for (int g = 0; g < held; g++) {
#pragma GCC unroll 2
        for (int v = 0; v < vectors; v++) {
            words[2 * v] = low_words(lanes[g * vectors + v]);
            words[2 * v + 1] = high_words(lanes[g * vectors + v]);
        }
        add_wide(a + 4 * g, row, words, rows, vectors, sums);
    }
}

/* One segment. DEEP: the int16 sums last `depth` groups, a multiple of what one load holds. */
ALWAYS void add_segment(const int_tile *t, const uint8_t *a, const uint8_t *w, tables levels, int rows,
                        int vectors, int bits, int kind, int depth, accumulators sums,
                        int32_t to[][FINISH_COLUMNS])
{
    const int held = bits * vectors < 8 ? 8 / bits / vectors : 1; /* groups in one load */
    for (int g = 0; g < t->groups;) {
        int end = kind == DEEP ? int_min(g + depth, t->groups) : t->groups;
        for (; g < end; g += held, a += 4 * held, w += 4 * bits * vectors * held)
            if (bits == 16)
                add_wide(a, t->row, (const __m256i *)(const void *)w, rows, vectors, sums);
            else
                add_codes(a, t->row, w, levels, rows, vectors, bits, held, kind, sums);
        if (kind == DEEP) {
            add_to(to, rows, vectors, kind, sums);
            clear(rows, vectors, sums);
        }
    }
}

ALWAYS void product(const int_tile *t, int rows, int vectors, int bits, int kind)
{
    accumulators sums;
    int32_t to[ROWS][FINISH_COLUMNS];
    tables levels = load_tables(t->weights->table, bits);
    int depth = kind == DEEP ? depth_of(t->weights) : 0;
    for (int r = 0; r < rows; r++)
        memcpy(to[r], t->start, sizeof to[r]);
    clear(rows, kind == WIDE ? 2 * vectors : vectors, sums);
    for (int segment = 0; segment < t->segments; segment++)
        add_segment(t, t->a + t->offsets[segment], (const uint8_t *)t->w + segment * t->segment_bytes, levels,
                    rows, vectors, bits, kind, depth, sums, to);
    if (kind != DEEP)
        add_to(to, rows, vectors, kind, sums);
    for (int r = 0; r < rows; r++)
        finish_columns(t, r, 0, 8 * vectors, to[r]);
}

ALWAYS void product_of_width(const int_tile *t, int rows, int bits, int kind)
{
    if (t->columns > 8)
        product(t, rows, 2, bits, kind);
    else
        product(t, rows, 1, bits, kind);
}

#define NARROW_TILE(rows, bits)                           \
    static void narrow_##rows##_##bits(const int_tile *t) \
    {                                                     \
        if (depth_of(t->weights) >= 4)                    \
            product_of_width(t, rows, bits, DEEP);        \
        else                                              \
            product_of_width(t, rows, bits, EACH);        \
    }
#define WIDE_TILE(rows, bits) \
    static void wide_##rows##_##bits(const int_tile *t) { product_of_width(t, rows, bits, WIDE); }

NARROW_TILE(1, 8)
NARROW_TILE(2, 8)
NARROW_TILE(3, 8)
NARROW_TILE(4, 8)
NARROW_TILE(5, 8)
NARROW_TILE(6, 8)
NARROW_TILE(1, 4)
NARROW_TILE(2, 4)
NARROW_TILE(1, 2)
NARROW_TILE(2, 2)
WIDE_TILE(1, 16)
WIDE_TILE(2, 16)
WIDE_TILE(3, 16)
WIDE_TILE(1, 8)
WIDE_TILE(2, 8)
WIDE_TILE(1, 4)
WIDE_TILE(2, 4)
WIDE_TILE(1, 2)
WIDE_TILE(2, 2)

typedef void tile_function(const int_tile *t);

static void tile(const int_tile *t)
{
    static tile_function *const narrow[3][ROWS] = {
        {narrow_1_2, narrow_2_2},
        {narrow_1_4, narrow_2_4},
        {narrow_1_8, narrow_2_8, narrow_3_8, narrow_4_8, narrow_5_8, narrow_6_8}};
    static tile_function *const wide[5][WIDE_ROWS] = {{wide_1_2, wide_2_2},
                                                      {wide_1_4, wide_2_4},
                                                      {wide_1_8, wide_2_8},
                                                      {0},
                                                      {wide_1_16, wide_2_16, wide_3_16}};
    if (!t->weights->wide) {
        narrow[t->bits / 4][t->rows - 1](t);
        return;
    }
    int_tile part = *t;
    for (int row = 0; row < t->rows; row += WIDE_ROWS) {
        part.a = t->a + row * t->row;
        part.rows = int_min(WIDE_ROWS, t->rows - row);
        part.out = (uint8_t *)t->out + row * t->out_row * (ptrdiff_t)(t->q ? 1 : sizeof(int32_t));
        wide[t->bits / 4][part.rows - 1](&part);
    }
}

static const int_isa isa = {.name = "avx2",
                            .rate = 60,
                            .rows = ROWS,
                            .columns = 16,
                            .narrow = 8,
                            .group = 4,
                            .vector = VECTOR,
                            .fused_rows = 2,
                            .widest_product = 16383,
                            .decode = decode,
                            .tile = tile,
                            .loops = &int_loops_avx2,
                            .floats = &codebook_isa_avx2};
const int_isa *const int_isa_avx2 = &isa;
#else
const int_isa *const int_isa_avx2 = NULL;
#endif
