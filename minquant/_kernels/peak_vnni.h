/* vpdpbusd in registers alone, in vectors of VECTOR bytes. */
#include <immintrin.h>
#if VECTOR == 64
typedef __m512i vec;
#define DOT "vpdpbusd %1, %1, %0"
#else
typedef __m256i vec;
#define DOT "%{vex%} vpdpbusd %1, %1, %0"
#endif

static uint64_t run(void)
{
    vec sums[PEAK_CHAINS], x = {0};
    for (int j = 0; j < PEAK_CHAINS; j++)
        sums[j] = x;
    for (int i = 0; i < PEAK_STEPS; i++)
#pragma GCC unroll 12
        for (int j = 0; j < PEAK_CHAINS; j++)
            __asm__ volatile(DOT : "+v"(sums[j]) : "v"(x));
    return (uint64_t)PEAK_STEPS * PEAK_CHAINS * VECTOR;
}
