/* The few vector operations the training kernels are written in, one set per instruction set.
 *
 * The including file sets TRAIN_AVX512 or TRAIN_AVX2, or nothing (the base line of the target: SSE2,
 * NEON or plain C).  TILE_PIXELS x TILE_VECTORS is the register tile: that many accumulators, the
 * weight vectors and one broadcast fit the register file without spilling.
 */
#ifndef MINQUANT_TRAIN_VEC_H
#define MINQUANT_TRAIN_VEC_H

#include <string.h>

#define INLINE static inline __attribute__((always_inline))

#if defined(TRAIN_AVX512)
#include <immintrin.h>
#define ISA(name) name##_avx512
#define TILE_PIXELS 8
#define TILE_VECTORS 3
enum { LANES = 16 };
typedef __m512 vec;
INLINE vec vec_load(const float *p) { return _mm512_loadu_ps(p); }
INLINE void vec_store(float *p, vec v) { _mm512_storeu_ps(p, v); }
INLINE vec vec_splat(float s) { return _mm512_set1_ps(s); }
INLINE vec vec_fma(vec a, vec b, vec c) { return _mm512_fmadd_ps(a, b, c); }

#elif defined(TRAIN_AVX2)
#include <immintrin.h>
#define ISA(name) name##_avx2
#define TILE_PIXELS 6
#define TILE_VECTORS 2
enum { LANES = 8 };
typedef __m256 vec;
INLINE vec vec_load(const float *p) { return _mm256_loadu_ps(p); }
INLINE void vec_store(float *p, vec v) { _mm256_storeu_ps(p, v); }
INLINE vec vec_splat(float s) { return _mm256_set1_ps(s); }
INLINE vec vec_fma(vec a, vec b, vec c) { return _mm256_fmadd_ps(a, b, c); }

#else
#define ISA(name) name##_generic
#define TILE_VECTORS 2
enum { LANES = 4 };
typedef float vec __attribute__((vector_size(16)));
INLINE vec vec_load(const float *p)
{
    vec v;
    memcpy(&v, p, sizeof v);
    return v;
}
INLINE void vec_store(float *p, vec v) { memcpy(p, &v, sizeof v); }
INLINE vec vec_splat(float s) { return (vec){s, s, s, s}; }
#if defined(__aarch64__)
#include <arm_neon.h>
#define TILE_PIXELS 8
INLINE vec vec_fma(vec a, vec b, vec c)
{
    return (vec)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
}
#else
#define TILE_PIXELS 6
INLINE vec vec_fma(vec a, vec b, vec c) { return a * b + c; }
#endif
#endif

/* p[i] for i < count, zero beyond; count may exceed the lanes. */
INLINE vec vec_load_some(const float *p, int count)
{
    float lanes[LANES] = {0};
    if (count >= LANES)
        return vec_load(p);
    if (count > 0)
        memcpy(lanes, p, (size_t)count * sizeof(float));
    return vec_load(lanes);
}

/* p[i] = v[i] for i < count; count may exceed the lanes. */
INLINE void vec_store_some(float *p, vec v, int count)
{
    float lanes[LANES];
    if (count >= LANES) {
        vec_store(p, v);
    } else if (count > 0) {
        vec_store(lanes, v);
        memcpy(p, lanes, (size_t)count * sizeof(float));
    }
}

#endif
