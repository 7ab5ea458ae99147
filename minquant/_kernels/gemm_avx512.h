/* How the kernels with vectors of 64 bytes finish 16 columns of a row: int32 sums, or codes of them. */
#ifndef MINQUANT_GEMM_AVX512_H
#define MINQUANT_GEMM_AVX512_H
#include "gemm_x86.h"

/* Most rows of a tile of AVX-512 VNNI, and of one whose codes are decoded in registers. */
#define VNNI_ROWS 14
#define VNNI_FUSED_ROWS 4

/* float(acc) * multiplier + offset, each operation rounded */
ALWAYS __m512 line_at(__m512i acc, __m512 multiplier, __m512 offset)
{
    return _mm512_add_ps(_mm512_mul_ps(_mm512_cvtepi32_ps(acc), multiplier), offset);
}

/* to[j] = clip(rint(acc[j] * multiplier[j] + offset[j]), 0, top); clipping first gives the same code */
ALWAYS void store_codes(const int_requantization *q, int column, __m512i acc, int count, uint8_t *to)
{
    __m512 y = line_at(acc, _mm512_loadu_ps(q->multiplier + column), _mm512_loadu_ps(q->offset + column));
    y = _mm512_min_ps(_mm512_max_ps(y, _mm512_setzero_ps()), _mm512_set1_ps((float)q->top));
    __m512i codes = _mm512_cvt_roundps_epi32(y, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m128i bytes = _mm512_cvtepi32_epi8(codes);
    if (count >= 16)
        _mm_storeu_si128((__m128i *)(void *)to, bytes);
    else
        _mm_mask_storeu_epi8(to, (__mmask16)((1u << count) - 1), bytes);
}

/* How far y is from the integer it is rounded to, with a sign. */
ALWAYS __m512 from_integer(__m512 y) { return _mm512_reduce_ps(y, _MM_FROUND_TO_NEAREST_INT); }
#define LARGER_MAGNITUDE 11 /* of two numbers, without its sign: an immediate of vrangeps */

/* Puts right the codes of up to 16 columns of a row that have a ladder. */
static __attribute__((noinline)) void settle(const int_tile *t, int row, int column, __m512i acc)
{
    int32_t sums[16];
    _mm512_storeu_si512(sums, acc);
    int_climb(t->q, sums, column, int_min(16, t->columns - column),
              (uint8_t *)t->out + row * t->out_row + column);
}

ALWAYS int is_in_doubt(const int_requantization *q, int column, __m512i acc)
{
    __m512 y = line_at(acc, _mm512_loadu_ps(q->multiplier + column), _mm512_loadu_ps(q->offset + column));
    return _mm512_cmp_ps_mask(_mm512_abs_ps(from_integer(y)), _mm512_set1_ps(q->least), _CMP_GT_OQ) != 0;
}

ALWAYS void store(const int_tile *t, int row, int column, vec sums)
{
    int count = t->columns - column;
    if (count <= 0)
        return;
    if (t->q) {
        store_codes(t->q, column, sums, count, (uint8_t *)t->out + row * t->out_row + column);
        if (t->q->direction && is_in_doubt(t->q, column, sums))
            settle(t, row, column, sums);
    } else
        _mm512_mask_storeu_epi32((int32_t *)t->out + row * t->out_row + column,
                                 (__mmask16)(count >= 16 ? 0xffffu : (1u << count) - 1), sums);
}

#endif
