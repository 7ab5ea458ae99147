/* Weight-only products with AVX-512: a permutation of 16 floats is a look-up of 4-bit codes. */
#include "codebook.h"
#if defined(__AVX512F__)
#include <immintrin.h>
#include <string.h>

#define ROWS 6
#define FUSED_ROWS 2
#define VECTORS 4
#define LANES 16
#define NAME "avx512vnni"
typedef __m512 floats, books;
typedef __m512i words;

static inline floats load(const float *from) { return _mm512_loadu_ps(from); }
static inline void save(float *to, floats x) { _mm512_storeu_ps(to, x); }
static inline floats repeat(const float *from) { return _mm512_set1_ps(*from); }
static inline floats multiply_add(floats acc, floats x, floats w) { return _mm512_fmadd_ps(x, w, acc); }
static inline words load_words(const uint32_t *from) { return _mm512_loadu_si512(from); }
static inline words next_codes(words codes, int bits) { return _mm512_srli_epi32(codes, (unsigned)bits); }

static inline books load_books(const float *book, int bits)
{
    (void)bits;
    return _mm512_loadu_ps(book);
}

static inline floats look_up(books b, words codes, int bits)
{
    (void)bits;
    return _mm512_permutexvar_ps(codes, b); /* the low 4 bits of each lane */
}

#include "codebook_tile.h"
static const struct codebook_isa isa = {NAME, ROWS, PANEL, FUSED_ROWS, decode, tile, depthwise};
const struct codebook_isa *const codebook_isa_avx512vnni = &isa;
#else
const struct codebook_isa *const codebook_isa_avx512vnni = NULL;
#endif
