/* The operations without products of matrices, as loops over channels. The file of each instruction set
 * includes this one after it has defined its NAME and vectors of BLOCK channels (BLOCK is a power of 2, at
 * most 16):
 *
 *   ints, floats                         BLOCK lanes of int32 and of float32
 *   words                                BLOCK lanes of int16
 *   load_codes, load_ints                ints from uint8 and int32; store_ints
 *   load_words                           words from int16
 *   load_floats                          floats from float32
 *   multiply_add(acc, x, w)              acc + x * w of uint8 codes at x and words w
 *   turn(x)                              (x ^ 128) - 128: int8 read as uint8
 *   scale(x, m), scale_floats(y, m)      float(x) * m and y * m, m from float32
 *   plus(y, z)                           y + z, rounded by itself
 *   store_codes(to, y, top)              uint8 of clip(rint(y), 0, top), half to even, not-a-number to 0
 *   store_reached(to, y, edges, top)     uint8 of the number of edges with y >= edge
 *   look_up(table, count, k)             table[k] of codes k below count
 *   where HAS_DOT4 is defined:           dot4(acc, x, w), acc + the four products of uint8 x and int8 w in
 *                                        each lane; shift_or(x, y, n), x | y << n; low_byte(x), x & 255;
 *                                        wide_channels, see ops_wide.h
 *   where HAS_TRANSLATE is defined:      translate_vectors, for channels of which can_translate is true
 *   is_beyond(y, limit)                  whether |y - rint(y)| > limit in any lane
 */
#include <string.h>

#define PIXELS 4

/* Sums of the channels first .. first + n: as they are, or as codes. Requantizations are padded, so whole
 * vectors of their factors may be read. */
static inline void write_block(const int_requantization *q, ints acc, int first, int n, void *out,
                               ptrdiff_t place)
{
    int32_t sums[BLOCK];
    uint8_t codes[BLOCK], *to = (uint8_t *)out + place + first;
    if (q && !q->direction && !q->boundaries) {
        floats y = plus(scale(acc, q->multiplier + first), load_floats(q->offset + first));
        store_codes(n == BLOCK ? to : codes, y, (float)q->top);
        if (n < BLOCK)
            memcpy(to, codes, (size_t)n);
        return;
    }
    store_ints(sums, acc);
    if (q)
        int_requantize(q, sums, first, n, to);
    else
        memcpy((int32_t *)out + place + first, sums, (size_t)n * sizeof *sums);
}

/* One block of channels of `pixels` outputs side by side: they share the levels, and their sums do not wait
 * for one another. */
static inline void depthwise_block(const int_taps *t, int first, int n, const int pixels, const uint8_t *x,
                                   ptrdiff_t step, const int_requantization *q, void *out, ptrdiff_t place)
{
    const int16_t *w = t->levels + first;
    ints acc[PIXELS];
    for (int i = 0; i < pixels; i++)
        acc[i] = load_ints(t->start + first);
    for (int tap = 0; tap < t->count; tap++, w += t->pitch) {
        const uint8_t *from = x + t->offsets[tap] + first;
        words levels = load_words(w);
#pragma GCC unroll 4
        for (int i = 0; i < pixels; i++)
            acc[i] = multiply_add(acc[i], from + i * step, levels);
    }
#pragma GCC unroll 4
    for (int i = 0; i < pixels; i++)
        write_block(q, acc[i], first, n, out, place + i * t->channels);
}

#ifdef HAS_DOT4
#define LEAST_OUTPUTS 8 /* for which arranging the weights pays */
/* Whether the taps are three rows of three pixels side by side. */
static int is_3x3(const int_taps *t)
{
    int yes = t->count == 9;
    for (int i = 0; yes && i < 9; i++)
        yes = t->offsets[i] == t->offsets[i / 3 * 3] + i % 3 * t->channels;
    return yes;
}

/* Byte r of lane c: row r of one column of the window, channel c. */
static inline ints column_codes(const uint8_t *x, const ptrdiff_t *offsets)
{
    ints upper = shift_or(load_codes(x + offsets[0]), load_codes(x + offsets[3]), 8);
    return shift_or(upper, load_codes(x + offsets[6]), 16);
}

/* Outputs of a line whose window keeps `kept` of its three columns from one to the next: a dot product takes
 * a column. */
static inline __attribute__((always_inline)) void line_3x3(const int_taps *t, int first, int n, int pixels,
                                                           const uint8_t *x, ptrdiff_t step,
                                                           const int_requantization *q, void *out,
                                                           ptrdiff_t place, const int kept)
{
    int whole =
        n == BLOCK && q && !q->direction && !q->boundaries; /* what write_block would look up each time */
    const float *multiplier = whole ? q->multiplier + first : NULL,
                *offset = whole ? q->offset + first : NULL;
    float top = whole ? (float)q->top : 0;
    ints w[3], columns[3], start = load_ints(t->start + first);
    const int16_t *levels = t->levels + first;
#pragma GCC unroll 3
    for (int j = 0; j < 3; j++, levels += t->pitch) {
        ints upper = shift_or(low_byte(load_words(levels)), low_byte(load_words(levels + 3 * t->pitch)), 8);
        w[j] = shift_or(upper, low_byte(load_words(levels + 6 * t->pitch)), 16);
    }
#pragma GCC unroll 2
    for (int j = 0; j < kept; j++)
        columns[3 - kept + j] = column_codes(x + j * t->channels, t->offsets);
    for (int i = 0; i < pixels; i++, x += step) {
#pragma GCC unroll 3
        for (int j = 0; j < 3; j++)
            columns[j] = j < kept ? columns[3 - kept + j] : column_codes(x + j * t->channels, t->offsets);
        ints acc = dot4(dot4(start, columns[0], w[0]), columns[1], w[1]);
        acc = dot4(acc, columns[2], w[2]);
        if (whole)
            store_codes((uint8_t *)out + place + i * t->channels + first,
                        plus(scale(acc, multiplier), load_floats(offset)), top);
        else
            write_block(q, acc, first, n, out, place + i * t->channels);
    }
}

static void depthwise_3x3(const int_taps *t, int first, int n, int pixels, const uint8_t *x, ptrdiff_t step,
                          const int_requantization *q, void *out, ptrdiff_t place)
{
    if (step == t->channels)
        line_3x3(t, first, n, pixels, x + first, step, q, out, place, 2);
    else if (step == 2 * t->channels)
        line_3x3(t, first, n, pixels, x + first, step, q, out, place, 1);
    else
        line_3x3(t, first, n, pixels, x + first, step, q, out, place, 0);
}
#endif

/* The channels first .. first + n of a line, a tap after the other. */
static void depthwise_taps(const int_taps *t, int first, int n, int pixels, const uint8_t *x, ptrdiff_t step,
                           const int_requantization *q, void *out, ptrdiff_t place)
{
    int i = 0;
    for (; i + PIXELS <= pixels; i += PIXELS)
        depthwise_block(t, first, n, PIXELS, x + i * step, step, q, out, place + i * t->channels);
    for (; i < pixels; i++)
        depthwise_block(t, first, n, 1, x + i * step, step, q, out, place + i * t->channels);
}

static void depthwise(const int_taps *t, const int_lines *l, const int_requantization *q)
{
    int done = 0;
#ifdef HAS_DOT4
    int columns = l->pixels * l->lines >= LEAST_OUTPUTS && is_3x3(t);
    if (columns && q && !q->direction && !q->boundaries)
        done = wide_channels(t, l, q);
#endif
    for (int y = 0; y < l->lines; y++)
        for (int first = done; first < t->channels; first += BLOCK) {
            int n = int_min(BLOCK, t->channels - first);
            const uint8_t *x = l->x + y * l->x_line;
#ifdef HAS_DOT4
            if (columns) {
                depthwise_3x3(t, first, n, l->pixels, x, l->step, q, l->out, y * l->out_line);
                continue;
            }
#endif
            depthwise_taps(t, first, n, l->pixels, x, l->step, q, l->out, y * l->out_line);
        }
}

/* to[c] = the larger; flip is 128 for int8, whose order is that of uint8 with the top bit turned round */
static void maximum(const uint8_t *restrict x, int channels, int flip, uint8_t *restrict to)
{
    for (int c = 0; c < channels; c++) {
        uint8_t a = (uint8_t)(x[c] ^ flip), b = (uint8_t)(to[c] ^ flip);
        to[c] = (uint8_t)((a > b ? a : b) ^ flip);
    }
}

static void translate(const uint8_t *tables, int channels, const uint8_t *restrict x, int count,
                      uint8_t *restrict to)
{
#ifdef HAS_TRANSLATE
    if (can_translate(channels)) {
        translate_vectors(tables, channels, x, count, to);
        return;
    }
#endif
    for (int c = 0; c < channels; c++, tables += 256)
#pragma GCC unroll 4
        for (int i = c; i < count; i += channels)
            to[i] = tables[x[i]];
}

static void add_pixel(const uint8_t *restrict x, int channels, int is_signed, int32_t *restrict sums)
{
    for (int c = 0; c < channels; c++)
        sums[c] += (x[c] ^ (is_signed ? 128 : 0)) - (is_signed ? 128 : 0);
}

/* One block of channels of all rows. What is the same for all of them stays in registers, and branches that
 * are constant are none. */
static inline __attribute__((always_inline)) uint32_t end_rows(const int_requantization *q,
                                                               const int_shortcut *s, const int_ending *e,
                                                               int c, int n, const int tabled,
                                                               const int doubtful, const int bounded)
{
    uint32_t doubt = 0;
    uint8_t codes[BLOCK], beside[BLOCK] = {0}, *to = e->to + c;
    const float *multiplier = q->multiplier + e->first + c;
    const float top = (float)q->top;
    const floats offset = load_floats(q->offset + e->first + c);
    const ptrdiff_t acc_row = e->acc_row, k_row = e->k_row, to_row = e->to_row;
    const int32_t *acc = e->acc + c;
    const uint8_t *k = s ? e->k + c : NULL;
    for (int r = 0, rows = e->rows; r < rows; r++, acc += acc_row, to += to_row) {
        uint8_t *place = n == BLOCK ? to : codes;
        floats y = plus(scale(load_ints(acc), multiplier), offset);
        if (s) {
            const uint8_t *at = k;
            if (tabled && n < BLOCK) /* what lies behind the last code may be none that the table has */
                at = memcpy(beside, k, (size_t)n);
            y = plus(y, tabled ? look_up(s->table, s->count, at) : scale(load_codes(at), s->slope));
            k += k_row;
        }
        if (bounded)
            store_reached(place, y, q->boundaries, q->top);
        else
            store_codes(place, y, top);
        if (doubtful && is_beyond(y, q->limit + e->first + c))
            doubt |= (uint32_t)1 << r;
        if (n < BLOCK)
            memcpy(to, codes, (size_t)n);
    }
    return doubt;
}

static inline uint32_t end_block(const int_requantization *q, const int_shortcut *s, const int_ending *e,
                                 int c, int n)
{
    int tabled = s && s->table, doubtful = q->limit != NULL, bounded = q->boundaries != NULL;
    if (n == BLOCK && tabled && !doubtful && !bounded) /* additions of few bits */
        return end_rows(q, s, e, c, BLOCK, 1, 0, 0);
    if (n == BLOCK && s && !tabled && doubtful && !bounded) /* of 8 bits */
        return end_rows(q, s, e, c, BLOCK, 0, 1, 0);
    if (n == BLOCK && !s && doubtful && !bounded) /* no additions, of 8 bits */
        return end_rows(q, NULL, e, c, BLOCK, 0, 1, 0);
    return end_rows(q, s, e, c, n, tabled, doubtful, bounded);
}

static uint32_t end(const int_requantization *q, const int_shortcut *s, const int_ending *e)
{
    uint32_t doubt = 0;
    for (int c = 0; c < e->columns; c += BLOCK)
        doubt |= end_block(q, s, e, c, int_min(BLOCK, e->columns - c));
    return doubt;
}

static void finish(const int_requantization *q, const int32_t *acc, int channels, void *out, ptrdiff_t place)
{
    for (int first = 0; first < channels; first += BLOCK)
        write_block(q, load_ints(acc + first), first, int_min(BLOCK, channels - first), out, place);
}

static inline void add_block(const int_addition *s, const uint8_t *a, const uint8_t *b, int channel,
                             uint8_t *to)
{
    ints left = load_codes(a), right = load_codes(b);
    if (s->signed_a)
        left = turn(left);
    if (s->signed_b)
        right = turn(right);
    floats y = plus(scale(left, s->multiplier_a + channel), scale(right, s->multiplier_b + channel));
    store_codes(to, plus(y, load_floats(s->offset + channel)), (float)s->top);
}

/* Elements from..to of a run whose factors repeat after `period` elements, a multiple of BLOCK. */
static void add(const int_addition *s, ptrdiff_t from, ptrdiff_t end, int period, const uint8_t *a,
                const uint8_t *b, uint8_t *to)
{
    uint8_t left[BLOCK] = {0}, right[BLOCK] = {0}, codes[BLOCK];
    for (int channel = (int)(from % period); from + BLOCK <= end; from += BLOCK) {
        add_block(s, a + from, b + from, channel, to + from);
        channel = channel + BLOCK == period ? 0 : channel + BLOCK;
    }
    if (from < end) {
        memcpy(left, a + from, (size_t)(end - from));
        memcpy(right, b + from, (size_t)(end - from));
        add_block(s, left, right, (int)(from % period), codes);
        memcpy(to + from, codes, (size_t)(end - from));
    }
}

static inline void quantize_block(const int_requantization *q, const float *x, int channel, uint8_t *to)
{
    floats y = scale_floats(load_floats(x), q->multiplier + channel);
    store_codes(to, plus(y, load_floats(q->offset + channel)), (float)q->top);
}

static void quantize(const int_requantization *q, ptrdiff_t from, ptrdiff_t end, int period, const float *x,
                     uint8_t *to)
{
    float rest[BLOCK] = {0};
    uint8_t codes[BLOCK];
    for (int channel = (int)(from % period); from + BLOCK <= end; from += BLOCK) {
        quantize_block(q, x + from, channel, to + from);
        channel = channel + BLOCK == period ? 0 : channel + BLOCK;
    }
    if (from < end) {
        memcpy(rest, x + from, (size_t)(end - from) * sizeof *x);
        quantize_block(q, rest, (int)(from % period), codes);
        memcpy(to + from, codes, (size_t)(end - from));
    }
}

static const int_loops loops = {.name = NAME,
                                .depthwise = depthwise,
                                .maximum = maximum,
                                .translate = translate,
                                .add_pixel = add_pixel,
                                .end = end,
                                .finish = finish,
                                .add = add,
                                .quantize = quantize};
