/* The loops of a weight-only product in vectors. The file of each instruction set includes this one after it
 * has defined ROWS, FUSED_ROWS, VECTORS of LANES columns in a panel, and
 *
 *   floats, words                  LANES of float32 and of uint32
 *   load, save, repeat             floats from and to memory; one float in all lanes
 *   load_words, next_codes         words from memory; all words >> bits
 *   multiply_add(acc, x, w)        acc + x * w, rounded once
 *   books, load_books, look_up     float of the lowest code of each word, out of a table of 16 that repeats a
 *                                  smaller codebook: bits beyond the code may be those of its neighbour
 */
#define ALWAYS static inline __attribute__((always_inline))
#define PANEL (VECTORS * LANES)

ALWAYS void decode_block(const uint32_t **from, books b, int bits, int count, float **to)
{
    words codes[VECTORS];
    for (int v = 0; v < VECTORS; v++)
        codes[v] = load_words(*from + LANES * v);
    for (int i = 0; i < count; i++, *to += PANEL)
#pragma GCC unroll 4
        for (int v = 0; v < VECTORS; v++) {
            save(*to + LANES * v, look_up(b, codes[v], bits));
            codes[v] = next_codes(codes[v], bits);
        }
    *from += PANEL;
}

ALWAYS void decode_bits(const uint32_t *from, int bits, int k, const float *book, float *to)
{
    books b = load_books(book, bits);
    int i = 0;
    for (; i + 32 / bits <= k; i += 32 / bits)
        decode_block(&from, b, bits, 32 / bits, &to);
    if (i < k)
        decode_block(&from, b, bits, k - i, &to);
}

/* to[k][column] = book[code] */
static void decode(const uint32_t *from, int bits, int k, const float *book, float *to)
{
    if (bits == 1)
        decode_bits(from, 1, k, book, to);
    else if (bits == 2)
        decode_bits(from, 2, k, book, to);
    else
        decode_bits(from, 4, k, book, to);
}

/* sums += a[r][0] times one row of weights */
ALWAYS void add_row(const float *a, ptrdiff_t row, const floats *w, int rows, int vectors,
                    floats sums[][VECTORS])
{
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++) {
        floats x = repeat(a + r * row);
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++)
            sums[r][v] = multiply_add(sums[r][v], x, w[v]);
    }
}

ALWAYS void add_floats(const codebook_tile *t, int rows, int vectors, floats sums[][VECTORS])
{
    const float *from = t->w;
    for (int k = 0; k < t->k; k++, from += PANEL) {
        floats w[VECTORS];
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++)
            w[v] = load(from + LANES * v);
        add_row(t->a + k, t->row, w, rows, vectors, sums);
    }
}

/* The codes of one word per column, decoded in registers. */
ALWAYS void add_block(const codebook_tile *t, const uint32_t *from, int k, int count, books b, int rows,
                      int bits, floats sums[][VECTORS])
{
    words codes[VECTORS];
    floats w[VECTORS];
#pragma GCC unroll 4
    for (int v = 0; v < VECTORS; v++)
        codes[v] = load_words(from + LANES * v);
    for (int i = 0; i < count; i++) {
#pragma GCC unroll 4
        for (int v = 0; v < VECTORS; v++) {
            w[v] = look_up(b, codes[v], bits);
            codes[v] = next_codes(codes[v], bits);
        }
        add_row(t->a + k + i, t->row, w, rows, VECTORS, sums);
    }
}

static const float no_floats[PANEL];

/* vectors: of the panel's VECTORS, those that hold wanted columns. */
ALWAYS void product(const codebook_tile *t, int rows, int vectors, int bits)
{
    floats sums[ROWS][VECTORS];
    float edge[PANEL] = {0};
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++) {
        const float *so_far = t->out + r * t->out_row;
        if (t->more && t->columns < LANES * vectors) {
            memcpy(edge, so_far, (size_t)t->columns * sizeof *edge);
            so_far = edge;
        }
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++)
            sums[r][v] = load(t->more ? so_far + LANES * v : no_floats);
    }
    if (bits == CODEBOOK_FLOATS) {
        add_floats(t, rows, vectors, sums);
    } else {
        books b = load_books(t->book, bits);
        const uint32_t *from = t->w;
        int k = 0;
        for (; k + 32 / bits <= t->k; k += 32 / bits, from += PANEL)
            add_block(t, from, k, 32 / bits, b, rows, bits, sums);
        if (k < t->k)
            add_block(t, from, k, t->k - k, b, rows, bits, sums);
    }
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++) {
        float *to = t->out + r * t->out_row;
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++)
            save((t->columns < LANES * vectors ? edge : to) + LANES * v, sums[r][v]);
        if (t->columns < LANES * vectors)
            memcpy(to, edge, (size_t)t->columns * sizeof *edge);
    }
}

ALWAYS void product_of_rows(const codebook_tile *t, int rows)
{
    if (t->bits == CODEBOOK_FLOATS && t->columns <= LANES)
        product(t, rows, 1, CODEBOOK_FLOATS);
    else if (t->bits == CODEBOOK_FLOATS && t->columns <= 2 * LANES)
        product(t, rows, 2, CODEBOOK_FLOATS);
    else if (t->bits == CODEBOOK_FLOATS)
        product(t, rows, VECTORS, CODEBOOK_FLOATS);
    else if (rows > FUSED_ROWS)
        return;
    else if (t->bits == 1)
        product(t, rows, VECTORS, 1);
    else if (t->bits == 2)
        product(t, rows, VECTORS, 2);
    else
        product(t, rows, VECTORS, 4);
}

static void tile(const codebook_tile *t)
{
    switch (t->rows) {
    case 1:
        product_of_rows(t, 1);
        break;
    case 2:
        product_of_rows(t, 2);
        break;
    case 3:
        product_of_rows(t, 3);
        break;
#if ROWS > 3
    case 4:
        product_of_rows(t, 4);
        break;
    case 5:
        product_of_rows(t, 5);
        break;
    default:
        product_of_rows(t, ROWS);
#endif
    }
}

ALWAYS void depthwise_block(int taps, const ptrdiff_t *offsets, int channels, const int vectors,
                            const float *x, const float *w, float *out)
{
    floats sums[VECTORS];
#pragma GCC unroll 4
    for (int v = 0; v < vectors; v++)
        sums[v] = load(no_floats);
    for (int tap = 0; tap < taps; tap++, w += channels)
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++)
            sums[v] = multiply_add(sums[v], load(x + offsets[tap] + LANES * v), load(w + LANES * v));
#pragma GCC unroll 4
    for (int v = 0; v < vectors; v++)
        save(out + LANES * v, sums[v]);
}

static void depthwise(int taps, const ptrdiff_t *offsets, int channels, const float *x, const float *w,
                      float *out)
{
    int c = 0;
    for (; c + PANEL <= channels; c += PANEL)
        depthwise_block(taps, offsets, channels, VECTORS, x + c, w + c, out + c);
    for (; c + LANES <= channels; c += LANES)
        depthwise_block(taps, offsets, channels, 1, x + c, w + c, out + c);
    codebook_depthwise_rest(taps, offsets, channels, c, x, w, out);
}
