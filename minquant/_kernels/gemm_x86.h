/* What the x86 kernels share: vectors of VECTOR = 32 or 64 bytes, which the including file defines, and the
 * decoding of panels. */
#ifndef MINQUANT_GEMM_X86_H
#define MINQUANT_GEMM_X86_H
#include "int_isa.h"
#include <immintrin.h>
#include <string.h>

#define ALWAYS static inline __attribute__((always_inline))

#if VECTOR == 64
typedef __m512i vec;
ALWAYS vec load(const void *from) { return _mm512_loadu_si512(from); }
ALWAYS void save(void *to, vec v) { _mm512_storeu_si512(to, v); }
ALWAYS vec low_nibbles(vec v) { return _mm512_and_si512(v, _mm512_set1_epi8(15)); }
ALWAYS vec high_nibbles(vec v) { return low_nibbles(_mm512_srli_epi16(v, 4)); }
ALWAYS vec look_up(vec table, vec nibbles) { return _mm512_shuffle_epi8(table, nibbles); }
ALWAYS vec repeat16(const void *from) { return _mm512_broadcast_i32x4(_mm_loadu_si128(from)); }
ALWAYS vec repeat4(int four) { return _mm512_set1_epi32(four); }
#else
typedef __m256i vec;
ALWAYS vec load(const void *from) { return _mm256_loadu_si256(from); }
ALWAYS void save(void *to, vec v) { _mm256_storeu_si256(to, v); }
ALWAYS vec low_nibbles(vec v) { return _mm256_and_si256(v, _mm256_set1_epi8(15)); }
ALWAYS vec high_nibbles(vec v) { return low_nibbles(_mm256_srli_epi16(v, 4)); }
ALWAYS vec look_up(vec table, vec nibbles) { return _mm256_shuffle_epi8(table, nibbles); }
ALWAYS vec repeat16(const void *from) { return _mm256_broadcastsi128_si256(_mm_loadu_si128(from)); }
ALWAYS vec repeat4(int four) { return _mm256_set1_epi32(four); }
#endif

/* Four bytes, wherever they lie. */
static inline int load4(const uint8_t *from)
{
    int four;
    memcpy(&four, from, 4);
    return four;
}

/* Levels by nibble, see int_nibble_levels. */
typedef struct {
    vec low, high;
} tables;

ALWAYS tables load_tables(const int8_t *levels, int bits)
{
    int8_t low[16], high[16];
    int_nibble_levels(levels, bits, low, high);
    return (tables){repeat16(low), repeat16(high)};
}

/* lanes[i][j] = levels[(from[j] >> bits * i) & (2^bits - 1)]; 8-bit codes are levels */
ALWAYS void decode_vector(const uint8_t *from, int bits, tables t, vec *lanes)
{
    vec codes = load(from);
    if (bits == 8) {
        lanes[0] = codes;
        return;
    }
    vec even = low_nibbles(codes), odd = high_nibbles(codes);
    lanes[0] = look_up(t.low, even);
    lanes[1] = look_up(bits == 4 ? t.low : t.high, bits == 4 ? odd : even);
    if (bits == 2) {
        lanes[2] = look_up(t.low, odd);
        lanes[3] = look_up(t.high, odd);
    }
}

#endif
