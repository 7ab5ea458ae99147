/* Products and depthwise convolution in float32 with fmla, the measure of the integer kernels: written for as
 * few instructions as theirs are. No bias, no activation, no padding: less than a network needs. */
#ifndef FLOAT32_H
#define FLOAT32_H
#include <arm_neon.h>
#include <stddef.h>

#define ALWAYS static inline __attribute__((always_inline))
#define ROWS 5 /* 20 sums, 5 activations and 2 weights fit the registers */
#define COLUMNS 16

/* sum += four * x[lane]. Like the integer kernels in instructions that stay where they are: compilers would
 * load ahead, run out of registers and move sums about. */
#define MULTIPLY_ADD(sum, four, x, lane) \
    __asm__ volatile("fmla %0.4s, %1.4s, %2.s[" #lane "]" : "+w"(sum) : "w"(four), "w"(x))

/* One k of all rows: 16 weights from *w, which moves past them. */
#define STEP(lane)                                                                                           \
    _Pragma("GCC unroll 2") for (int half = 0; half < 4; half += 2)                                          \
    {                                                                                                        \
        float32x4_t low, high;                                                                               \
        __asm__ volatile("ldp %q1, %q2, [%0], #32" : "+r"(w), "=w"(low), "=w"(high) : : "memory");           \
        _Pragma("GCC unroll 5") for (int r = 0; r < rows; r++) MULTIPLY_ADD(sums[r][half], low, x[r], lane); \
        _Pragma("GCC unroll 5") for (int r = 0; r < rows; r++)                                               \
            MULTIPLY_ADD(sums[r][half + 1], high, x[r], lane);                                               \
    }

/* c = a b for `rows` rows and one panel of b, [k][16]. */
ALWAYS void float32_tile(int rows, int k, int n, const float *a, const float *w, float *c)
{
    float32x4_t sums[ROWS][4], x[ROWS];
#pragma GCC unroll 5
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
        for (int v = 0; v < 4; v++)
            sums[r][v] = vdupq_n_f32(0);
    for (const float *end = a + k; a < end; a += 4) {
#pragma GCC unroll 5
        for (int r = 0; r < rows; r++)
            x[r] = vld1q_f32(a + r * k);
        STEP(0) STEP(1) STEP(2) STEP(3)
    }
#pragma GCC unroll 5
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
        for (int v = 0; v < 4; v++)
            vst1q_f32(c + r * n + 4 * v, sums[r][v]);
}

/* c (m x n) = a (m x k) b, b in panels [n / 16][k][16]; k is a multiple of 4, n of 16. */
static inline void float32_product(int m, int k, int n, const float *a, const float *b, float *c)
{
    for (int column = 0; column < n; column += COLUMNS)
        for (int row = 0; row < m; row += ROWS) {
            const float *w = b + column * k, *x = a + row * k;
            float *y = c + row * n + column;
            switch (m - row) {
            case 1:
                float32_tile(1, k, n, x, w, y);
                break;
            case 2:
                float32_tile(2, k, n, x, w, y);
                break;
            case 3:
                float32_tile(3, k, n, x, w, y);
                break;
            case 4:
                float32_tile(4, k, n, x, w, y);
                break;
            default:
                float32_tile(ROWS, k, n, x, w, y);
            }
        }
}

/* Four outputs side by side, four channels: 3 x 3 taps w [9][channels] on rows of x that lie `line` apart.
 * With stride 1 the outputs share their inputs, which are loaded once. */
ALWAYS void float32_taps(int stride, int channels, ptrdiff_t line, const float *x, const float *w, float *y)
{
    float32x4_t sums[4] = {vdupq_n_f32(0), vdupq_n_f32(0), vdupq_n_f32(0), vdupq_n_f32(0)};
#pragma GCC unroll 3
    for (int i = 0; i < 3; i++, x += line, w += 3 * channels) {
        float32x4_t row[9], taps[3];
#pragma GCC unroll 9
        for (int j = 0; j < 3 * stride + 3; j++)
            row[j] = vld1q_f32(x + j * channels);
#pragma GCC unroll 3
        for (int j = 0; j < 3; j++)
            taps[j] = vld1q_f32(w + j * channels);
#pragma GCC unroll 3
        for (int j = 0; j < 3; j++)
#pragma GCC unroll 4
            for (int o = 0; o < 4; o++)
                sums[o] = vfmaq_f32(sums[o], row[o * stride + j], taps[j]);
    }
#pragma GCC unroll 4
    for (int o = 0; o < 4; o++)
        vst1q_f32(y + o * channels, sums[o]);
}

/* y (rows x columns x channels) from an x with its padding, `line` floats per row; columns and channels are
 * multiples of 4, stride is 1 or 2. */
static inline void float32_depthwise(int rows, int columns, int channels, int stride, ptrdiff_t line,
                                     const float *x, const float *w, float *y)
{
    for (int row = 0; row < rows; row++, x += stride * line)
        for (int column = 0; column < columns; column += 4, y += 4 * channels)
            for (int c = 0; c < channels; c += 4) {
                const float *from = x + column * stride * channels + c;
                if (stride == 1)
                    float32_taps(1, channels, line, from, w + c, y + c);
                else
                    float32_taps(2, channels, line, from, w + c, y + c);
            }
}

#endif
