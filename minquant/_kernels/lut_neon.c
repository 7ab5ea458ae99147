/* Products by look-up with the NEON of every 64-bit ARM processor: tbl looks up 16 nibbles. */
#include "lut.h"
#if defined(__aarch64__)
#include <arm_neon.h>
#define LANES 16
typedef uint8x16_t vec;

static inline vec load(const void *from) { return vld1q_u8(from); }
static inline void save(void *to, vec x) { vst1q_u8(to, x); }
static inline vec repeat16(const void *from) { return vld1q_u8(from); }
static inline vec low_nibbles(vec x) { return vandq_u8(x, vdupq_n_u8(15)); }
static inline vec high_nibbles(vec x) { return vshrq_n_u8(x, 4); }
static inline vec look_up(vec table, vec nibbles) { return vqtbl1q_u8(table, nibbles); }
static inline vec zero(void) { return vdupq_n_u8(0); }
static inline vec add8(vec a, vec b) { return vaddq_u8(a, b); }
static inline vec add16(vec a, vec b)
{
    return vreinterpretq_u8_u16(vaddq_u16(vreinterpretq_u16_u8(a), vreinterpretq_u16_u8(b)));
}

static inline void interleave(vec low, vec high, vec *to)
{
    to[0] = vzip1q_u8(low, high);
    to[1] = vzip2q_u8(low, high);
}

static inline void widen8(vec x, vec *to)
{
    interleave(x, vreinterpretq_u8_s8(vshrq_n_s8(vreinterpretq_s8_u8(x), 7)), to);
}

#include "lut_tile.h"
lut_function *const lut_neon = tile;
#else
lut_function *const lut_neon = 0;
#endif
