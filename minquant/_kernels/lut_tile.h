/* The loops of a product by look-up. The including file defines `vec` of LANES bytes and
 *
 *   load, repeat16               from memory; 16 bytes in every 128 bits
 *   low_nibbles, high_nibbles    of each byte
 *   look_up(table, nibbles)
 *   add8, add16, zero
 *   interleave(low, high, to)    int16 of 16 columns in every 128 bits: to[0] the first 8, to[1] the others
 *   widen8(x, to)                the same of int8
 *   save                         to memory
 */
#define ALWAYS static inline __attribute__((always_inline))
#define VECTORS (LUT_COLUMNS / LANES)

/* sums += the int16 sums of each vector, which begin anew. */
ALWAYS void drain(vec shorts[][2], int32_t *sums)
{
    int16_t lanes[LANES / 2];
    for (int v = 0; v < VECTORS; v++)
        for (int half = 0; half < 2; half++) {
            save(lanes, shorts[v][half]);
            for (int l = 0; l < LANES / 2; l++)
                sums[v * LANES + l / 8 * 16 + half * 8 + l % 8] += lanes[l];
            shorts[v][half] = zero();
        }
}

/* One group of k: entries of int16 in two tables. */
ALWAYS void add_words(vec nibbles, vec low, vec high, vec *shorts)
{
    vec entries[2];
    interleave(look_up(low, nibbles), look_up(high, nibbles), entries);
    shorts[0] = add16(shorts[0], entries[0]);
    shorts[1] = add16(shorts[1], entries[1]);
}

static void sum_words(const lut_tile *t)
{
    vec shorts[VECTORS][2];
    for (int v = 0; v < VECTORS; v++)
        shorts[v][0] = shorts[v][1] = zero();
    for (int pair = 0, left = t->depth / 2; pair < t->pairs; pair++) {
        const uint8_t *tables = t->tables + 64 * pair, *codes = t->codes + LUT_COLUMNS * pair;
        vec low0 = repeat16(tables), high0 = repeat16(tables + 16);
        vec low1 = repeat16(tables + 32), high1 = repeat16(tables + 48);
#pragma GCC unroll 8
        for (int v = 0; v < VECTORS; v++) {
            vec both = load(codes + LANES * v);
            add_words(low_nibbles(both), low0, high0, shorts[v]);
            add_words(high_nibbles(both), low1, high1, shorts[v]);
        }
        if (!--left) {
            drain(shorts, t->sums);
            left = t->depth / 2;
        }
    }
    drain(shorts, t->sums);
}

static void sum_bytes(const lut_tile *t)
{
    vec bytes[VECTORS], shorts[VECTORS][2], wider[2];
    for (int v = 0; v < VECTORS; v++)
        bytes[v] = shorts[v][0] = shorts[v][1] = zero();
    for (int pair = 0; pair < t->pairs;) {
        int end = pair + t->depth / 2 < t->pairs ? pair + t->depth / 2 : t->pairs;
        for (; pair < end; pair++) {
            const uint8_t *codes = t->codes + LUT_COLUMNS * pair;
            vec table0 = repeat16(t->tables + 32 * pair), table1 = repeat16(t->tables + 32 * pair + 16);
#pragma GCC unroll 8
            for (int v = 0; v < VECTORS; v++) {
                vec both = load(codes + LANES * v);
                bytes[v] = add8(bytes[v], look_up(table0, low_nibbles(both)));
                bytes[v] = add8(bytes[v], look_up(table1, high_nibbles(both)));
            }
        }
#pragma GCC unroll 8
        for (int v = 0; v < VECTORS; v++) { /* LUT_GROUPS look-ups of at most 127: int16 does not overflow */
            widen8(bytes[v], wider);
            shorts[v][0] = add16(shorts[v][0], wider[0]);
            shorts[v][1] = add16(shorts[v][1], wider[1]);
            bytes[v] = zero();
        }
    }
    drain(shorts, t->sums);
}

static void tile(const lut_tile *t)
{
    if (t->words)
        sum_words(t);
    else
        sum_bytes(t);
}
