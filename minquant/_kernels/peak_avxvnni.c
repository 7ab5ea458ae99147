/* The dot product of this instruction set in registers alone. */
#include "peak.h"
#if defined(__AVXVNNI__)
#include <immintrin.h>

static uint64_t run(void)
{
    __m256i sums[PEAK_CHAINS], x = _mm256_setzero_si256();
    for (int j = 0; j < PEAK_CHAINS; j++)
        sums[j] = x;
    for (int i = 0; i < PEAK_STEPS; i++)
#pragma GCC unroll 12
        for (int j = 0; j < PEAK_CHAINS; j++)
            __asm__ volatile("%{vex%} vpdpbusd %1, %1, %0" : "+x"(sums[j]) : "x"(x));
    return (uint64_t)PEAK_STEPS * PEAK_CHAINS * 32;
}

peak_function *const peak_avxvnni = run;
#else
peak_function *const peak_avxvnni = 0;
#endif
