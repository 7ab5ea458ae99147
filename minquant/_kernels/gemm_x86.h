/* What the x86 kernels share. */
#ifndef MINQUANT_GEMM_X86_H
#define MINQUANT_GEMM_X86_H
#include <immintrin.h>
#include <string.h>

/* Four bytes, wherever they lie. */
static inline int load4(const uint8_t *from)
{
    int four;
    memcpy(&four, from, 4);
    return four;
}

#endif
