/* Tables of 256 bytes, 64 look-ups at a time, for processors with AVX-512 VBMI. */
#define HAS_TRANSLATE
#define MOST_TABLES 3
#define VBMI __attribute__((target("avx512vbmi")))

static inline int can_translate(int channels)
{
    return channels <= MOST_TABLES && __builtin_cpu_supports("avx512vbmi");
}

/* table[x] of each byte; an instruction looks 7 bits up in two vectors. */
static inline VBMI ints table_of(const ints *table, ints x, __mmask64 upper)
{
    ints low = _mm512_permutex2var_epi8(table[0], x, table[1]);
    return _mm512_mask_mov_epi8(low, upper, _mm512_permutex2var_epi8(table[2], x, table[3]));
}

static inline __attribute__((always_inline)) VBMI void translate_of(const uint8_t *tables, const int channels,
                                                                    const uint8_t *x, int count, uint8_t *to)
{
    const __mmask64 every_third = 0x9249249249249249, every_other = 0x5555555555555555;
    ints table[MOST_TABLES][4];
#pragma GCC unroll 3
    for (int c = 0; c < channels; c++)
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++)
            table[c][i] = _mm512_loadu_si512(tables + 256 * c + 64 * i);
    for (int done = 0; done < count; done += 64) {
        __mmask64 used = ~(__mmask64)0 >> (count - done < 64 ? 64 - (count - done) : 0);
        ints bytes = _mm512_maskz_loadu_epi8(used, x + done);
        __mmask64 upper = _mm512_movepi8_mask(bytes);
        int turn = done % channels; /* the channel of the first byte */
        ints codes = table_of(table[0], bytes, upper);
#pragma GCC unroll 2
        for (int c = 1; c < channels; c++) {
            __mmask64 own = channels == 3 ? every_third : every_other;
            own <<= (c - turn + channels) % channels;
            codes = _mm512_mask_mov_epi8(codes, own, table_of(table[c], bytes, upper));
        }
        _mm512_mask_storeu_epi8(to + done, used, codes);
    }
}

static VBMI void translate_vectors(const uint8_t *tables, int channels, const uint8_t *x, int count,
                                   uint8_t *to)
{
    if (channels == 1)
        translate_of(tables, 1, x, count, to);
    else if (channels == 2)
        translate_of(tables, 2, x, count, to);
    else
        translate_of(tables, 3, x, count, to);
}
