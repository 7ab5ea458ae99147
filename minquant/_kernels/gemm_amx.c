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
#define LEAST_WORK 500
#define LONG 7 /* steps of a product from which another tile is finished in between */
#include "amx_finish.h"

/* Tiles: 0, 1: sums of the upper rows; 2, 3: of the lower; 4, 5: upper and lower rows of activations; 6, 7:
 * left and right columns of weights. */

/* For so many rows and groups; loading takes longer than a small product, so only where they change. */
ALWAYS void configure(int *loaded, int upper, int lower, int groups)
{
    tile_shapes c = {.palette = 1};
    int shape = upper << 16 | lower << 8 | groups;
    if (*loaded == shape)
        return;
    *loaded = shape;
    for (int i = 0; i < 8; i++) {
        int is_lower = i == 2 || i == 3 || i == 5, is_weights = i >= 6;
        int rows = is_weights ? groups : !is_lower ? upper : lower ? lower : 1; /* no tile may be empty */
        c.rows[i] = (uint8_t)rows;
        c.bytes[i] = (uint16_t)(i == 4 || i == 5 ? 4 * groups : TILE_BYTES);
    }
    configure_tiles(&c);
}

/* Adds `steps` times `groups` groups of each segment, from group `first` on, to the tiles of sums. */
ALWAYS void add_groups(const int_tile *t, int first, int groups, int steps, int tall, int wide, unfinished *u)
{
    const ptrdiff_t group_bytes = wide ? 2 * TILE_BYTES : TILE_BYTES;
    const int is_long = t->segments * steps >= LONG;
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
            if (is_long)
                use_time(u);
        }
    }
}

/* Between tiles 0 to 3 and memory: the lower rows behind the upper ones. */
#define MOVE_SUMS(how, to)                               \
    do {                                                 \
        how(0, &(to)[0][0], sizeof *(to));               \
        if (wide)                                        \
            how(1, &(to)[0][HALF], sizeof *(to));        \
        if (tall)                                        \
            how(2, &(to)[t->upper][0], sizeof *(to));    \
        if (tall && wide)                                \
            how(3, &(to)[t->upper][HALF], sizeof *(to)); \
    } while (0)

/* Sums begin as `start`, which every row of a tile loads. */
ALWAYS void begin(const int_tile *t, int tall, int wide)
{
    if (t->start == int_zeros) {
        ZERO_TILE(0);
        ZERO_TILE(1);
        ZERO_TILE(2);
        ZERO_TILE(3);
        return;
    }
    LOAD_TILE(0, t->start, 0);
    if (wide)
        LOAD_TILE(1, t->start + HALF, 0);
    if (tall)
        LOAD_TILE(2, t->start, 0);
    if (tall && wide)
        LOAD_TILE(3, t->start + HALF, 0);
}

/* Leaves the sums in tiles 0 to 3; `to` is memory for them. A segment is equal parts, as few as there may be,
 * and a rest that is shorter. */
ALWAYS void product(const int_tile *t, int tall, int wide, int *loaded, int32_t (*to)[2 * HALF],
                    unfinished *u)
{
    int parts = (t->groups + HALF - 1) / HALF, groups = (t->groups + parts - 1) / parts;
    int steps = t->groups / groups, rest = t->groups % groups;
    configure(loaded, t->upper, t->rows - t->upper, groups);
    begin(t, tall, wide);
    add_groups(t, 0, groups, steps, tall, wide, u);
    if (rest) {
        MOVE_SUMS(STORE_TILE, to);
        configure(loaded, t->upper, t->rows - t->upper, rest);
        MOVE_SUMS(LOAD_TILE, to);
        add_groups(t, groups * steps, rest, 1, tall, wide, u);
    }
}

static void multiply(const int_tile *t, int *loaded, int32_t (*to)[2 * HALF], unfinished *u)
{
    int is_tall = t->rows > t->upper, is_wide = t->columns > HALF;
    if (is_tall && is_wide)
        product(t, 1, 1, loaded, to, u);
    else if (is_tall)
        product(t, 1, 0, loaded, to, u);
    else if (is_wide)
        product(t, 0, 1, loaded, to, u);
    else
        product(t, 0, 0, loaded, to, u);
}

static void keep_sums(const int_tile *t, int32_t (*to)[2 * HALF])
{
    int tall = t->rows > t->upper, wide = t->columns > HALF;
    MOVE_SUMS(STORE_TILE, to);
}

/* Bytes from out to row `row`. */
static ptrdiff_t place_of(const int_tile *t, int row)
{
    ptrdiff_t elements = row < t->upper ? row * t->out_row : t->out_lower + (row - t->upper) * t->out_row;
    return elements * element(t);
}

/* The same product in tiles of the instruction set that has the same panels, as equal as they can be. The
 * tile is changed in place: a copy would wait for the fields that int_next_tile has just written. */
static void multiply_vectors(const int_tiles *job, int_tile *t)
{
    const uint8_t *a = t->a;
    uint8_t *out = t->out;
    int rows = t->rows, first = 0, end = t->is_pair ? t->upper : rows;
    for (; first < rows; first = end, end = rows) {
        int count = (end - first + VNNI_ROWS - 1) / VNNI_ROWS, height = (end - first + count - 1) / count;
        for (int row = first; row < end; row += height) {
            t->a = a + (row < t->upper ? row * t->row : t->lower + (row - t->upper) * t->row);
            t->out = out + place_of(t, row);
            t->rows = int_min(height, end - row);
            int_isa_avx512vnni->tile(t);
        }
    }
    t->rows = rows;
    t->out = out;
    if (t->ends_in_memory)
        int_end_tile(job, t, t->out, (int)t->out_row);
}

static int is_worth_tiles(const int_tile *t)
{
    int vectors = t->segments * t->groups * (t->columns > HALF ? 2 : 1);
    return !t->out || (t->bits == 8 && t->rows >= LEAST_ROWS && t->rows * vectors >= LEAST_WORK);
}

/* A tile is finished while the products of the next one are on their way. */
static void tiles(int_tiles *job)
{
    int32_t sums[2][ROWS][2 * HALF] __attribute__((aligned(64)));
    unfinished last = {.job = job};
    int loaded = 0, turn = 0;
    last.ahead = int_look_ahead(job, &last.lines);
    for (int_tile *t; (t = int_next_tile(job)); turn = !turn) {
        int is_worth = is_worth_tiles(t);
        if (is_worth)
            multiply(t, &loaded, sums[turn], &last);
        finish(&last);
        if (is_worth) {
            keep_sums(t, sums[turn]);
            begin_to_finish(&last, t, (const int32_t(*)[2 * HALF]) sums[turn]);
        } else
            multiply_vectors(job, t);
    }
    finish(&last);
    if (loaded)
        release_tiles();
}

static void decode(const int_weights *w, const uint8_t *from, size_t codes, void *to)
{
    int_isa_avx512vnni->decode(w, from, codes, to);
}

static const int_isa isa = {.name = "amx",
                            .rate = 800,
                            .rows = ROWS,
                            .takes_pairs = 1,
                            .packs_up_to = 10,
                            .columns = 2 * HALF,
                            .narrow = HALF,
                            .group = 4,
                            .vector = VECTOR,
                            .fused_rows = VNNI_FUSED_ROWS,
                            .widest_product = INT_MAX_PRODUCT,
                            .decode = decode,
                            .tiles = tiles,
                            .settles = 1,
                            .loops = &int_loops_avx512vnni,
                            .floats = &codebook_isa_avx512vnni};
const int_isa *const int_isa_amx = &isa;
#else
const int_isa *const int_isa_amx = NULL;
#endif
