/* Products with AVX-512 VNNI: 16 columns in a vector, 32 registers. gemm_vnni.h holds the loops. */
#include "int_isa.h"
#if defined(__AVX512VNNI__) && defined(__AVX512BW__) && defined(__AVX512VL__)
#define VECTOR 64
#define ROWS 14
#define FUSED_ROWS 4
#include "gemm_vnni.h"

/* to[j] = clip(rint(acc[j] * multiplier[j] + offset[j]), 0, top); clipping first gives the same code */
ALWAYS void store_codes(const int_requantization *q, int column, __m512i acc, int count, uint8_t *to)
{
    __m512 y = _mm512_mul_ps(_mm512_cvtepi32_ps(acc), _mm512_loadu_ps(q->multiplier + column));
    y = _mm512_add_ps(y, _mm512_loadu_ps(q->offset + column));
    y = _mm512_min_ps(_mm512_max_ps(y, _mm512_setzero_ps()), _mm512_set1_ps((float)q->top));
    __m512i codes = _mm512_cvt_roundps_epi32(y, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m128i bytes = _mm512_cvtepi32_epi8(codes);
    if (count >= 16)
        _mm_storeu_si128((__m128i *)(void *)to, bytes);
    else
        _mm_mask_storeu_epi8(to, (__mmask16)((1u << count) - 1), bytes);
}

ALWAYS void store(const int_tile *t, int row, int column, vec sums)
{
    int count = t->columns - column;
    if (count <= 0)
        return;
    if (t->q)
        store_codes(t->q, column, sums, count, (uint8_t *)t->out + row * t->out_row + column);
    else
        _mm512_mask_storeu_epi32((int32_t *)t->out + row * t->out_row + column,
                                 (__mmask16)(count >= 16 ? 0xffffu : (1u << count) - 1), sums);
}

FUSED(1)
FUSED(2)
FUSED(3)
FUSED(4)
TILE(5, 8)
TILE(6, 8)
TILE(7, 8)
TILE(8, 8)
TILE(9, 8)
TILE(10, 8)
TILE(11, 8)
TILE(12, 8)
TILE(13, 8)
TILE(14, 8)

static void (*const decoded[ROWS])(const int_tile *) = {tile_1_8,  tile_2_8,  tile_3_8,  tile_4_8, tile_5_8,
                                                        tile_6_8,  tile_7_8,  tile_8_8,  tile_9_8, tile_10_8,
                                                        tile_11_8, tile_12_8, tile_13_8, tile_14_8};
static void (*const fused[2][FUSED_ROWS])(const int_tile *) = {{tile_1_2, tile_2_2, tile_3_2, tile_4_2},
                                                               {tile_1_4, tile_2_4, tile_3_4, tile_4_4}};
VNNI_ISA("avx512vnni", &int_loops_avx512vnni, &codebook_isa_avx512vnni);
const int_isa *const int_isa_avx512vnni = &isa;
#else
const int_isa *const int_isa_avx512vnni = NULL;
#endif
