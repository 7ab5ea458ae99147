/* vpdpbusd in registers alone, in vectors of VECTOR bytes. */
#include <immintrin.h>
#if VECTOR == 64
typedef __m512i vec;
#define DOT "vpdpbusd %1, %1, %0"
#else
typedef __m256i vec;
#define DOT "%{vex%} vpdpbusd %1, %1, %0"
#endif

#define START(sum) vec sum = {0};
#define MULTIPLY(sum) __asm__ volatile(DOT : "+v"(sum) : "v"(x));

static uint64_t run(void)
{
    vec x = {0};
    PEAK_EACH(START)
    for (int i = 0; i < PEAK_STEPS; i++) {
        PEAK_EACH(MULTIPLY)
    }
    return (uint64_t)PEAK_STEPS * PEAK_CHAINS * VECTOR;
}
