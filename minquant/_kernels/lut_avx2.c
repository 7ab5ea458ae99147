/* Products by look-up with AVX2: vpshufb looks up 32 nibbles. */
#include "lut.h"
#if defined(__AVX2__)
#define VECTOR 32
#define LANES 32
#include "gemm_x86.h"

static inline vec zero(void) { return _mm256_setzero_si256(); }
static inline vec add8(vec a, vec b) { return _mm256_add_epi8(a, b); }
static inline vec add16(vec a, vec b) { return _mm256_add_epi16(a, b); }

static inline void interleave(vec low, vec high, vec *to)
{
    to[0] = _mm256_unpacklo_epi8(low, high);
    to[1] = _mm256_unpackhi_epi8(low, high);
}

static inline void widen8(vec x, vec *to) { interleave(x, _mm256_cmpgt_epi8(zero(), x), to); }

#include "lut_tile.h"
lut_function *const lut_avx2 = tile;
#else
lut_function *const lut_avx2 = 0;
#endif
