/* Pooling, addition, quantization and depthwise convolution in AVX-512. */
#include "int_isa.h"
#if defined(__AVX512VNNI__) && defined(__AVX512BW__) && defined(__AVX512VL__)
#include <immintrin.h>
#include <string.h>

#define NAME "avx512vnni"
#define BLOCK 16
typedef __m512i ints;
typedef __m512 floats;
typedef ints words;

static inline ints load_codes(const uint8_t *x)
{
    return _mm512_cvtepu8_epi32(_mm_loadu_si128((const void *)x));
}
static inline ints load_ints(const int32_t *x) { return _mm512_loadu_si512(x); }
static inline floats load_floats(const float *x) { return _mm512_loadu_ps(x); }
static inline void store_ints(int32_t *to, ints x) { _mm512_storeu_si512(to, x); }

static inline words load_words(const int16_t *x)
{
    return _mm512_cvtepi16_epi32(_mm256_loadu_si256((const void *)x));
}

/* The upper halves of x are 0, so of each pair of int16 products only the lower counts. */
static inline ints multiply_add(ints acc, const uint8_t *x, words w)
{
    return _mm512_add_epi32(acc, _mm512_madd_epi16(load_codes(x), w));
}

static inline ints turn(ints x)
{
    ints top = _mm512_set1_epi32(128);
    return _mm512_sub_epi32(_mm512_xor_si512(x, top), top);
}

static inline floats scale_floats(floats y, const float *m) { return _mm512_mul_ps(y, load_floats(m)); }
static inline floats scale(ints x, const float *m) { return scale_floats(_mm512_cvtepi32_ps(x), m); }
static inline floats plus(floats y, floats z) { return _mm512_add_ps(y, z); }

/* max gives its second operand where the first is not a number */
static inline void store_codes(uint8_t *to, floats y, float top)
{
    y = _mm512_min_ps(_mm512_max_ps(y, _mm512_setzero_ps()), _mm512_set1_ps(top));
    ints codes = _mm512_cvt_roundps_epi32(y, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    _mm_storeu_si128((__m128i *)(void *)to, _mm512_cvtepi32_epi8(codes));
}

#define HAS_DOT4
static inline ints dot4(ints acc, ints x, ints w) { return _mm512_dpbusd_epi32(acc, x, w); }
static inline ints shift_or(ints x, ints y, unsigned n)
{
    return _mm512_or_si512(x, _mm512_slli_epi32(y, n));
}
static inline ints low_byte(ints x) { return _mm512_and_si512(x, _mm512_set1_epi32(255)); }

#include "ops_translate.h"
#include "ops_wide.h"

static inline void store_reached(uint8_t *to, floats y, const float *edges, int top)
{
    ints count = _mm512_setzero_si512(), one = _mm512_set1_epi32(1);
    for (int i = 0; i < top; i++)
        count = _mm512_mask_add_epi32(count, _mm512_cmp_ps_mask(y, _mm512_set1_ps(edges[i]), _CMP_GE_OQ),
                                      count, one);
    _mm_storeu_si128((__m128i *)(void *)to, _mm512_cvtepi32_epi8(count));
}

static inline floats look_up(const float *table, int count, const uint8_t *k)
{
    if (count <= 16)
        return _mm512_permutexvar_ps(load_codes(k), load_floats(table));
    return _mm512_i32gather_ps(load_codes(k), table, 4);
}

static inline int is_beyond(floats y, const float *limit)
{
    floats off = _mm512_abs_ps(_mm512_reduce_ps(y, _MM_FROUND_TO_NEAREST_INT));
    return _mm512_cmp_ps_mask(off, load_floats(limit), _CMP_GT_OQ) != 0;
}

#include "ops_loops.h"
const int_loops *const int_loops_avx512vnni = &loops;
#else
const int_loops *const int_loops_avx512vnni = NULL;
#endif
