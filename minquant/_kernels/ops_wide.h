/* Depthwise 3 x 3 convolution of up to 64 channels at a time, for AVX-512 VNNI. Interleaving the bytes of
 * three rows, and a row of 0, makes lanes of int32 that a dot product takes at once: one column of the
 * window. It leaves channel 16 l + 4 v + j in 128 bits l, lane j of vector v of four; factors are loaded in
 * that order, and packing the sums to bytes undoes it.
 *
 * Of 43 instructions for 64 outputs (8 to interleave, 12 dot products, 20 that requantize, 3 to pack), two
 * ports take two in a cycle: that, not memory, is the limit. */
#define WIDE 64
#define WIDE_LEAST 33 /* channels from which it is faster than 16 at a time */

/* What every output needs, for those `used` of 64 channels, or for 32 channels of two outputs side by side.
 */
typedef struct {
    __mmask64 used;
    ints w[3][4], start[4];
    floats multiplier[4], offset[4], top;
} wide_factors;

static inline __attribute__((always_inline)) void interleave(ints a, ints b, ints c, ints *to)
{
    ints none = _mm512_setzero_si512();
    ints low = _mm512_unpacklo_epi8(a, b), low_c = _mm512_unpacklo_epi8(c, none);
    ints high = _mm512_unpackhi_epi8(a, b), high_c = _mm512_unpackhi_epi8(c, none);
    to[0] = _mm512_unpacklo_epi16(low, low_c);
    to[1] = _mm512_unpackhi_epi16(low, low_c);
    to[2] = _mm512_unpacklo_epi16(high, high_c);
    to[3] = _mm512_unpackhi_epi16(high, high_c);
}

/* One column of the window, whose upper pixel is at x. */
static inline __attribute__((always_inline)) void wide_column(const uint8_t *x, const ptrdiff_t *offsets,
                                                              __mmask64 used, ints *to)
{
    interleave(_mm512_maskz_loadu_epi8(used, x + offsets[0]), _mm512_maskz_loadu_epi8(used, x + offsets[3]),
               _mm512_maskz_loadu_epi8(used, x + offsets[6]), to);
}

/* `second`: where the channels from 32 on lie. */
static inline ints level_bytes(const int16_t *levels, __mmask64 used, ptrdiff_t second)
{
    __m256i low = _mm512_cvtepi16_epi8(_mm512_maskz_loadu_epi16((__mmask32)used, levels));
    __m256i high = _mm512_cvtepi16_epi8(_mm512_maskz_loadu_epi16((__mmask32)(used >> 32), levels + second));
    return _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
}

/* Vector v of 64 floats, in the order of interleaved channels. */
static inline floats in_order(const float *from, int v, ptrdiff_t second)
{
    floats x = _mm512_broadcast_f32x4(_mm_loadu_ps(from + 4 * v));
    x = _mm512_mask_broadcast_f32x4(x, 0x00f0, _mm_loadu_ps(from + 4 * v + 16));
    x = _mm512_mask_broadcast_f32x4(x, 0x0f00, _mm_loadu_ps(from + 4 * v + second));
    return _mm512_mask_broadcast_f32x4(x, 0xf000, _mm_loadu_ps(from + 4 * v + second + 16));
}

/* Of the channels from `first` on; second: 32, or 0 where the first 32 are those of two outputs. */
static inline wide_factors arrange(const int_taps *t, int first, const int_requantization *q,
                                   ptrdiff_t second)
{
    int n = second ? int_min(WIDE, t->channels - first) : WIDE;
    wide_factors f = {.used = ~(__mmask64)0 >> (WIDE - n), .top = _mm512_set1_ps((float)q->top)};
    int32_t start[WIDE] = {0};
    memcpy(start, t->start + first, (size_t)int_min(n, t->channels - first) * sizeof *start);
    for (int j = 0; j < 3; j++) {
        const int16_t *levels = t->levels + first + j * t->pitch;
        interleave(level_bytes(levels, f.used, second), level_bytes(levels + 3 * t->pitch, f.used, second),
                   level_bytes(levels + 6 * t->pitch, f.used, second), f.w[j]);
    }
    for (int v = 0; v < 4; v++) {
        f.start[v] = _mm512_castps_si512(in_order((const float *)(const void *)start, v, second));
        f.multiplier[v] = in_order(q->multiplier + first, v, second);
        f.offset[v] = in_order(q->offset + first, v, second);
    }
    return f;
}

/* The codes of 64 channels of one output; packing clips what is below 0 and above 255. */
static inline __attribute__((always_inline)) ints wide_codes(const wide_factors *f, ints columns[3][4])
{
    ints codes[4];
#pragma GCC unroll 4
    for (int v = 0; v < 4; v++) {
        ints acc = dot4(f->start[v], columns[0][v], f->w[0][v]);
        acc = dot4(dot4(acc, columns[1][v], f->w[1][v]), columns[2][v], f->w[2][v]);
        floats y = plus(_mm512_mul_ps(_mm512_cvtepi32_ps(acc), f->multiplier[v]), f->offset[v]);
        codes[v] =
            _mm512_cvt_roundps_epi32(_mm512_min_ps(y, f->top), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    }
    return _mm512_packus_epi16(_mm512_packs_epi32(codes[0], codes[1]),
                               _mm512_packs_epi32(codes[2], codes[3]));
}

/* `steps` times 64 outputs of a line, whose window keeps `kept` of its three columns from one step to the
 * next. */
static inline __attribute__((always_inline)) void wide_3x3(const int_taps *t, const wide_factors *f,
                                                           int steps, const uint8_t *x, ptrdiff_t step,
                                                           uint8_t *to, ptrdiff_t to_step, const int kept)
{
    ints columns[3][4];
#pragma GCC unroll 2
    for (int j = 0; j < kept; j++)
        wide_column(x + j * t->channels, t->offsets, f->used, columns[3 - kept + j]);
    for (int i = 0; i < steps; i++, x += step, to += to_step) {
#pragma GCC unroll 3
        for (int j = 0; j < 3; j++)
#pragma GCC unroll 4
            for (int v = 0; v < 4; v++)
                if (j < kept)
                    columns[j][v] = columns[3 - kept + j][v];
                else if (!v)
                    wide_column(x + j * t->channels, t->offsets, f->used, columns[j]);
        _mm512_mask_storeu_epi8(to, f->used, wide_codes(f, columns));
    }
}

/* 64 channels from `first` on, or 32 channels of outputs side by side. */
static void wide_lines(const int_taps *t, const int_lines *l, const wide_factors *f, int first, int together)
{
    ptrdiff_t step = together * l->step, to_step = together * t->channels;
    int steps = l->pixels / together;
    for (int y = 0; y < l->lines; y++) {
        const uint8_t *x = l->x + y * l->x_line + first;
        uint8_t *to = (uint8_t *)l->out + y * l->out_line + first;
        if (step == t->channels)
            wide_3x3(t, f, steps, x, step, to, to_step, 2);
        else if (step == 2 * t->channels)
            wide_3x3(t, f, steps, x, step, to, to_step, 1);
        else
            wide_3x3(t, f, steps, x, step, to, to_step, 0);
    }
}

/* Lines of outputs, 64 channels at a time while at least WIDE_LEAST are left; the channels done. */
static int wide_channels(const int_taps *t, const int_lines *l, const int_requantization *q)
{
    int first = 0;
    if (t->channels == WIDE / 2 && l->step == t->channels && l->pixels % 2 == 0) {
        wide_factors f = arrange(t, 0, q, 0);
        wide_lines(t, l, &f, 0, 2);
        return t->channels;
    }
    for (; t->channels - first >= WIDE_LEAST; first += WIDE) {
        wide_factors f = arrange(t, first, q, WIDE / 2);
        wide_lines(t, l, &f, first, 1);
    }
    return first;
}
