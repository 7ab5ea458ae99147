/* The exact 8-bit product of AVX2 in registers alone: vpmaddubsw, vpmaddwd and vpaddd for 32 multiply-adds.
 */
#include "peak.h"
#if defined(__AVX2__)
#include <immintrin.h>

#define START(sum) __m256i sum = _mm256_setzero_si256();
#define MULTIPLY(sum)                                                                    \
    __asm__ volatile("vpmaddubsw %2, %2, %1\n\tvpmaddwd %2, %1, %1\n\tvpaddd %1, %0, %0" \
                     : "+x"(sum), "=&x"(product)                                         \
                     : "x"(x));

static uint64_t run(void)
{
    __m256i x = _mm256_setzero_si256(), product;
    PEAK_EACH(START)
    for (int i = 0; i < PEAK_STEPS; i++) {
        PEAK_EACH(MULTIPLY)
    }
    return (uint64_t)PEAK_STEPS * PEAK_CHAINS * 32;
}

peak_function *const peak_avx2 = run;
#else
peak_function *const peak_avx2 = 0;
#endif
