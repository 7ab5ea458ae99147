/* Pooling, addition, quantization and depthwise convolution in plain C that compilers vectorise. */
#include "int_isa.h"
#include <math.h>

#define NAME "generic"
#define BLOCK 8
typedef struct {
    int32_t lane[BLOCK];
} ints;
typedef struct {
    float lane[BLOCK];
} floats;
typedef struct {
    int16_t lane[BLOCK];
} words;

/* A function that gives `expression` of every lane i. */
#define LANES(type, name, parameters, expression) \
    static inline type name parameters            \
    {                                             \
        type result;                              \
        for (int i = 0; i < BLOCK; i++)           \
            result.lane[i] = expression;          \
        return result;                            \
    }
LANES(ints, load_codes, (const uint8_t *x), x[i])
LANES(ints, load_ints, (const int32_t *x), x[i])
LANES(floats, load_floats, (const float *x), x[i])
LANES(words, load_words, (const int16_t *x), x[i])
LANES(ints, multiply_add, (ints acc, const uint8_t *x, words w),
      (int32_t)((uint32_t)acc.lane[i] + (uint32_t)((int16_t)x[i] * w.lane[i])))
LANES(ints, turn, (ints x), (x.lane[i] ^ 128) - 128)
LANES(floats, scale, (ints x, const float *m), (float)x.lane[i] * m[i])
LANES(floats, scale_floats, (floats y, const float *m), y.lane[i] * m[i])
LANES(floats, plus, (floats y, floats z), y.lane[i] + z.lane[i])

static inline void store_ints(int32_t *to, ints x)
{
    for (int i = 0; i < BLOCK; i++)
        to[i] = x.lane[i];
}

/* From 2^23 on float32 holds integers alone, so adding it rounds half to even. */
static inline void store_codes(uint8_t *to, floats y, float top)
{
    for (int i = 0; i < BLOCK; i++) {
        float clipped = y.lane[i] > 0 ? y.lane[i] : 0;
        clipped = clipped < top ? clipped : top;
        to[i] = (uint8_t)(int)((clipped + 8388608.0f) - 8388608.0f);
    }
}

static inline void store_reached(uint8_t *to, floats y, const float *edges, int top)
{
    ints count = {{0}};
    for (int j = 0; j < top; j++)
        for (int i = 0; i < BLOCK; i++)
            count.lane[i] += y.lane[i] >= edges[j];
    for (int i = 0; i < BLOCK; i++)
        to[i] = (uint8_t)count.lane[i];
}

static inline floats look_up(const float *table, int count, const uint8_t *k)
{
    floats found;
    (void)count;
    for (int i = 0; i < BLOCK; i++)
        found.lane[i] = table[k[i]];
    return found;
}

static inline int is_beyond(floats y, const float *limit)
{
    int found = 0;
    for (int i = 0; i < BLOCK; i++)
        found |= fabsf(y.lane[i] - rintf(y.lane[i])) > limit[i];
    return found;
}

#include "ops_loops.h"
const int_loops *const int_loops_generic = &loops;
