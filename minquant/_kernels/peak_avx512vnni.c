/* The dot product of this instruction set in registers alone. */
#include "peak.h"
#if defined(__AVX512VNNI__)
#include <immintrin.h>

static uint64_t run(void)
{
    __m512i sums[PEAK_CHAINS], x = _mm512_setzero_si512();
    for (int j = 0; j < PEAK_CHAINS; j++)
        sums[j] = x;
    for (int i = 0; i < PEAK_STEPS; i++)
#pragma GCC unroll 12
        for (int j = 0; j < PEAK_CHAINS; j++)
            __asm__ volatile("vpdpbusd %1, %1, %0" : "+v"(sums[j]) : "v"(x));
    return (uint64_t)PEAK_STEPS * PEAK_CHAINS * 64;
}

peak_function *const peak_avx512vnni = run;
#else
peak_function *const peak_avx512vnni = 0;
#endif
