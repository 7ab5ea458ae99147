/* Pooling, addition, quantization and depthwise convolution in AVX2. */
#include "int_isa.h"
#ifdef __AVX2__
#include <immintrin.h>

#define NAME "avx2"
#define BLOCK 8
typedef __m256i ints;
typedef __m256 floats;
typedef ints words;

static inline ints load_codes(const uint8_t *x)
{
    return _mm256_cvtepu8_epi32(_mm_loadl_epi64((const void *)x));
}
static inline ints load_ints(const int32_t *x) { return _mm256_loadu_si256((const void *)x); }
static inline floats load_floats(const float *x) { return _mm256_loadu_ps(x); }
static inline void store_ints(int32_t *to, ints x) { _mm256_storeu_si256((__m256i *)(void *)to, x); }

static inline words load_words(const int16_t *x)
{
    return _mm256_cvtepi16_epi32(_mm_loadu_si128((const void *)x));
}

/* The upper halves of x are 0, so of each pair of int16 products only the lower counts. */
static inline ints multiply_add(ints acc, const uint8_t *x, words w)
{
    return _mm256_add_epi32(acc, _mm256_madd_epi16(load_codes(x), w));
}

static inline ints turn(ints x)
{
    ints top = _mm256_set1_epi32(128);
    return _mm256_sub_epi32(_mm256_xor_si256(x, top), top);
}

static inline floats scale_floats(floats y, const float *m) { return _mm256_mul_ps(y, load_floats(m)); }
static inline floats scale(ints x, const float *m) { return scale_floats(_mm256_cvtepi32_ps(x), m); }
static inline floats plus(floats y, floats z) { return _mm256_add_ps(y, z); }

/* max gives its second operand where the first is not a number */
static inline void store_codes(uint8_t *to, floats y, float top)
{
    y = _mm256_min_ps(_mm256_max_ps(y, _mm256_setzero_ps()), _mm256_set1_ps(top));
    ints codes = _mm256_cvtps_epi32(_mm256_round_ps(y, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
    __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(codes), _mm256_extracti128_si256(codes, 1));
    _mm_storel_epi64((__m128i *)(void *)to, _mm_packus_epi16(words, words));
}

static inline void store_reached(uint8_t *to, floats y, const float *edges, int top)
{
    ints count = _mm256_setzero_si256();
    for (int i = 0; i < top; i++) /* a comparison that holds is -1 */
        count = _mm256_sub_epi32(count,
                                 _mm256_castps_si256(_mm256_cmp_ps(y, _mm256_set1_ps(edges[i]), _CMP_GE_OQ)));
    __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(count), _mm256_extracti128_si256(count, 1));
    _mm_storel_epi64((__m128i *)(void *)to, _mm_packus_epi16(words, words));
}

static inline floats look_up(const float *table, int count, const uint8_t *k)
{
    (void)count;
    return _mm256_i32gather_ps(table, load_codes(k), 4);
}

static inline int is_beyond(floats y, const float *limit)
{
    floats off = _mm256_sub_ps(y, _mm256_round_ps(y, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
    off = _mm256_andnot_ps(_mm256_set1_ps(-0.0f), off);
    return _mm256_movemask_ps(_mm256_cmp_ps(off, load_floats(limit), _CMP_GT_OQ)) != 0;
}

#include "ops_loops.h"
const int_loops *const int_loops_avx2 = &loops;
#else
const int_loops *const int_loops_avx2 = NULL;
#endif
