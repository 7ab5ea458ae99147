/* One matrix product, repeated: what count.sh counts the instructions of.
 *
 *   product NAME M K N BITS LIMIT REPEATS
 *
 * NAME: an instruction set of int.h, `naive`, or `float32` (a plain kernel of fmla). Uniform levels of BITS
 * bits, none beyond +-LIMIT. Counting with two values of REPEATS and subtracting leaves whole products alone.
 */
#include "int.h"
#include <arm_neon.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* 6 x 16 tiles of a (m x k) times packed b ([n / 16][k][16]); m is a multiple of 6, n of 16. */
static void float32_product(int m, int k, int n, const float *a, const float *b, float *c)
{
    for (int column = 0; column < n; column += 16)
        for (int row = 0; row < m; row += 6) {
            const float *w = b + (size_t)column * (size_t)k, *x = a + (size_t)row * (size_t)k;
            float32x4_t sums[6][4];
#pragma GCC unroll 6
            for (int r = 0; r < 6; r++)
#pragma GCC unroll 4
                for (int v = 0; v < 4; v++)
                    sums[r][v] = vdupq_n_f32(0);
            for (int i = 0; i < k; i++, w += 16)
#pragma GCC unroll 4
                for (int v = 0; v < 4; v++) {
                    float32x4_t four = vld1q_f32(w + 4 * v);
#pragma GCC unroll 6
                    for (int r = 0; r < 6; r++)
                        sums[r][v] = vfmaq_n_f32(sums[r][v], four, x[(size_t)r * (size_t)k + (size_t)i]);
                }
#pragma GCC unroll 6
            for (int r = 0; r < 6; r++)
#pragma GCC unroll 4
                for (int v = 0; v < 4; v++)
                    vst1q_f32(c + (size_t)(row + r) * (size_t)n + (size_t)(column + 4 * v), sums[r][v]);
        }
}

static void *need(size_t bytes)
{
    void *memory = malloc(bytes);
    if (!memory) {
        fprintf(stderr, "product: no memory for %zu bytes\n", bytes);
        exit(2);
    }
    return memset(memory, 1, bytes);
}

int main(int argc, char **argv)
{
    if (argc != 8) {
        fprintf(stderr, "use: product NAME M K N BITS LIMIT REPEATS\n");
        return 2;
    }
    int m = atoi(argv[2]), k = atoi(argv[3]), n = atoi(argv[4]), bits = atoi(argv[5]), limit = atoi(argv[6]);
    size_t mk = (size_t)m * (size_t)k, kn = (size_t)k * (size_t)n, mn = (size_t)m * (size_t)n;
    int8_t levels[256];
    uint8_t *a = need(mk), *codes = need(kn);
    float *x = need(4 * mk), *w = need(4 * kn);
    void *out = need(4 * mn);
    for (int i = 0; i < 1 << bits; i++) {
        int level = i - (1 << (bits - 1));
        levels[i] = (int8_t)(level < -limit ? -limit : level > limit ? limit : level);
    }
    for (size_t i = 0; i < kn; i++)
        codes[i] = (uint8_t)(i * 2654435761u >> 11 & ((1u << bits) - 1));
    const int_options options = {.threads = 1};
    const int_isa *isa = int_isa_find(argv[1]);
    int_weights *packed = isa ? int_weights_new(isa, codes, 1, k, n, bits, levels) : NULL;
    for (int i = atoi(argv[7]); i > 0; i--) {
        if (!strcmp(argv[1], "naive"))
            int_gemm_naive(m, k, n, a, k, codes, levels, out, &options);
        else if (!strcmp(argv[1], "float32"))
            float32_product(m, k, n, x, w, out);
        else if (!packed || int_gemm(packed, m, a, k, out, n, &options)) {
            fprintf(stderr, "product: no instruction set %s here\n", argv[1]);
            return 2;
        }
    }
    return 0;
}
