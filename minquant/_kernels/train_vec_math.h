/* Comparison, rounding, exponential and logarithm of the vectors of train_vec.h.
 *
 * vec_exp and vec_log are within 3 units in the last place of the exact value, as the tests measure; vec_exp
 * hands on a NaN.  The polynomials are those of the Cephes library's expf and logf, summed in
 * pairs: shorter chains of dependent operations.
 */
#ifndef MINQUANT_TRAIN_VEC_MATH_H
#define MINQUANT_TRAIN_VEC_MATH_H

#include <stdint.h>
#include "train_vec.h"

typedef int32_t ivec __attribute__((vector_size(4 * LANES)));

INLINE ivec vec_bits(vec v)
{
    ivec bits;
    memcpy(&bits, &v, sizeof bits);
    return bits;
}
INLINE vec vec_of_bits(ivec bits)
{
    vec v;
    memcpy(&v, &bits, sizeof v);
    return v;
}
/* condition ? a : b; a condition is a comparison of vectors. */
INLINE vec vec_pick(ivec condition, vec a, vec b)
{
    return vec_of_bits((condition & vec_bits(a)) | (~condition & vec_bits(b)));
}
INLINE vec vec_at_most(vec v, vec limit) { return vec_pick((ivec)(v > limit), limit, v); }
INLINE vec vec_at_least(vec v, vec limit) { return vec_pick((ivec)(v < limit), limit, v); }
INLINE vec vec_clip(vec v, float low, float high)
{
    return vec_at_most(vec_at_least(v, vec_splat(low)), vec_splat(high));
}
INLINE vec vec_abs(vec v) { return vec_of_bits(vec_bits(v) & 0x7fffffff); }
/* |v| with the sign of `signs`, for v >= 0. */
INLINE vec vec_signed(vec v, vec signs) { return vec_of_bits(vec_bits(v) | (vec_bits(signs) & INT32_MIN)); }

/* Adding it pushes the fraction of a float out on the right: |v| < 2^22 is rounded to an integer. */
#define ROUNDER 12582912.0f

/* floorf(v) for |v| < 2^22. */
INLINE vec vec_floor(vec v)
{
    vec nearest = v + ROUNDER - ROUNDER;
    return nearest - vec_pick((ivec)(nearest > v), vec_splat(1), vec_splat(0));
}

/* expf(v); v is taken into -87..88, where neither it nor its reciprocal is zero or infinite. */
INLINE vec vec_exp(vec v)
{
    v = vec_clip(v, -87.0f, 88.0f);
    vec shifted = v * 1.44269504f + ROUNDER, count = shifted - ROUNDER; /* v = count log 2 + rest */
    vec rest = v - count * 0.693359375f + count * 2.12194440e-4f;
    vec square = rest * rest, low = 1.6666665459e-1f * rest + 5.0000001201e-1f;
    vec middle = 8.3334519073e-3f * rest + 4.1665795894e-2f;
    vec high = 1.9875691500e-4f * rest + 1.3981999507e-3f;
    vec p = (low + (middle + high * square) * square) * square + rest + 1.0f;
    return p * vec_of_bits((vec_bits(shifted) << 23) + 0x3f800000); /* p times 2^count */
}

/* logf(v) for positive, normal v. */
INLINE vec vec_log(vec v)
{
    ivec exponent = (vec_bits(v) - 0x3f3504f3) >> 23; /* v = m 2^exponent, sqrt(1/2) <= m < sqrt 2 */
    vec f = vec_of_bits(vec_bits(v) - (exponent << 23)) - 1.0f;
    vec count = __builtin_convertvector(exponent, vec);
    vec square = f * f, fourth = square * square;
    vec low = -2.4999993993e-1f * f + 3.3333331174e-1f, second = -1.6668057665e-1f * f + 2.0000714765e-1f;
    vec third = -1.2420140846e-1f * f + 1.4249322787e-1f, high = -1.1514610310e-1f * f + 1.1676998740e-1f;
    vec p = low + second * square + (third + high * square + 7.0376836292e-2f * fourth) * fourth;
    p = p * f * square - count * 2.12194440e-4f - 0.5f * square;
    return count * 0.693359375f + (f + p);
}

/* The sum of the lanes. */
INLINE double vec_sum(vec v)
{
    float lanes[LANES];
    double total = 0;
    vec_store(lanes, v);
    for (int i = 0; i < LANES; i++)
        total += lanes[i];
    return total;
}

#endif
