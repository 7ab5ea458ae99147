/* Weight-only products with AVX2: a permutation of 8 floats looks up 3 bits, a blend adds the fourth. */
#include "codebook.h"
#if defined(__AVX2__) && defined(__FMA__)
#include <immintrin.h>
#include <string.h>

#define ROWS 3
#define FUSED_ROWS 1
#define VECTORS 4
#define LANES 8
#define NAME "avx2"
typedef __m256 floats;
typedef __m256i words;
typedef struct {
    __m256 low, high;
} books;

static inline floats load(const float *from) { return _mm256_loadu_ps(from); }
static inline void save(float *to, floats x) { _mm256_storeu_ps(to, x); }
static inline floats repeat(const float *from) { return _mm256_broadcast_ss(from); }
static inline floats multiply_add(floats acc, floats x, floats w) { return _mm256_fmadd_ps(x, w, acc); }
static inline words load_words(const uint32_t *from) { return _mm256_loadu_si256((const void *)from); }
static inline words next_codes(words codes, int bits) { return _mm256_srli_epi32(codes, bits); }

static inline books load_books(const float *book, int bits)
{
    (void)bits;
    return (books){_mm256_loadu_ps(book), _mm256_loadu_ps(book + 8)};
}

static inline floats look_up(books b, words codes, int bits)
{
    floats low = _mm256_permutevar8x32_ps(b.low, codes);
    if (bits < 4)
        return low;
    floats fourth = _mm256_castsi256_ps(_mm256_slli_epi32(codes, 28)); /* a blend reads the sign */
    return _mm256_blendv_ps(low, _mm256_permutevar8x32_ps(b.high, codes), fourth);
}

#include "codebook_tile.h"
static const struct codebook_isa isa = {NAME, ROWS, PANEL, FUSED_ROWS, decode, tile, depthwise};
const struct codebook_isa *const codebook_isa_avx2 = &isa;
#else
const struct codebook_isa *const codebook_isa_avx2 = NULL;
#endif
