/* Pooling, addition, quantization and depthwise convolution in NEON of every 64-bit ARM processor. */
#include "int_isa.h"
#if defined(__aarch64__)
#include <arm_neon.h>

#define NAME "neon"
#define BLOCK 8
typedef int32x4x2_t ints;
typedef float32x4x2_t floats;
typedef int16x8_t words;

static inline words load_words(const int16_t *x) { return vld1q_s16(x); }
static inline ints load_ints(const int32_t *x) { return (ints){{vld1q_s32(x), vld1q_s32(x + 4)}}; }
static inline floats load_floats(const float *x) { return (floats){{vld1q_f32(x), vld1q_f32(x + 4)}}; }

static inline int16x8_t load_shorts(const uint8_t *x) { return vreinterpretq_s16_u16(vmovl_u8(vld1_u8(x))); }

static inline ints load_codes(const uint8_t *x)
{
    int16x8_t wide = load_shorts(x);
    return (ints){{vmovl_s16(vget_low_s16(wide)), vmovl_high_s16(wide)}};
}

static inline void store_ints(int32_t *to, ints x)
{
    vst1q_s32(to, x.val[0]);
    vst1q_s32(to + 4, x.val[1]);
}

/* smlal multiplies int16 and adds int32 at once */
static inline ints multiply_add(ints acc, const uint8_t *x, words w)
{
    int16x8_t codes = load_shorts(x);
    return (ints){
        {vmlal_s16(acc.val[0], vget_low_s16(codes), vget_low_s16(w)), vmlal_high_s16(acc.val[1], codes, w)}};
}

static inline ints turn(ints x)
{
    int32x4_t top = vdupq_n_s32(128);
    return (ints){{vsubq_s32(veorq_s32(x.val[0], top), top), vsubq_s32(veorq_s32(x.val[1], top), top)}};
}

static inline floats scale_floats(floats y, const float *m)
{
    return (floats){{vmulq_f32(y.val[0], vld1q_f32(m)), vmulq_f32(y.val[1], vld1q_f32(m + 4))}};
}

static inline floats scale(ints x, const float *m)
{
    return scale_floats((floats){{vcvtq_f32_s32(x.val[0]), vcvtq_f32_s32(x.val[1])}}, m);
}

static inline floats plus(floats y, floats z)
{
    return (floats){{vaddq_f32(y.val[0], z.val[0]), vaddq_f32(y.val[1], z.val[1])}};
}

static inline void store_narrow(uint8_t *to, uint32x4_t low, uint32x4_t high, int top)
{
    uint16x8_t codes = vqmovn_high_u32(vqmovn_u32(low), high);
    vst1_u8(to, vmovn_u16(vminq_u16(codes, vdupq_n_u16((uint16_t)top))));
}

/* The conversion rounds half to even and gives 0 for what is negative or not a number. */
static inline void store_codes(uint8_t *to, floats y, float top)
{
    store_narrow(to, vcvtnq_u32_f32(y.val[0]), vcvtnq_u32_f32(y.val[1]), (int)top);
}

static inline void store_reached(uint8_t *to, floats y, const float *edges, int top)
{
    uint32x4_t low = vdupq_n_u32(0), high = low;
    for (int i = 0; i < top; i++) { /* a comparison that holds is -1 */
        float32x4_t edge = vld1q_dup_f32(edges + i);
        low = vsubq_u32(low, vcgeq_f32(y.val[0], edge));
        high = vsubq_u32(high, vcgeq_f32(y.val[1], edge));
    }
    store_narrow(to, low, high, top);
}

/* The four bytes of each of 16 floats: bytes 4 k .. 4 k + 3 of 64. */
static inline float32x4_t four_of(uint8x16x4_t table, uint8x8_t k, const uint8_t *lanes)
{
    static const uint8_t bytes[16] = {0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3};
    uint8x16_t codes = vqtbl1q_u8(vcombine_u8(vshl_n_u8(k, 2), k), vld1q_u8(lanes));
    return vreinterpretq_f32_u8(vqtbl4q_u8(table, vorrq_u8(codes, vld1q_u8(bytes))));
}

static inline floats look_up(const float *table, int count, const uint8_t *k)
{
    static const uint8_t low[16] = {0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3};
    static const uint8_t high[16] = {4, 4, 4, 4, 5, 5, 5, 5, 6, 6, 6, 6, 7, 7, 7, 7};
    float found[BLOCK];
    if (count <= 16) {
        const uint8_t *bytes = (const uint8_t *)table;
        uint8x16x4_t all = {
            {vld1q_u8(bytes), vld1q_u8(bytes + 16), vld1q_u8(bytes + 32), vld1q_u8(bytes + 48)}};
        return (floats){{four_of(all, vld1_u8(k), low), four_of(all, vld1_u8(k), high)}};
    }
    for (int i = 0; i < BLOCK; i++)
        found[i] = table[k[i]];
    return load_floats(found);
}

static inline uint32x4_t beyond(float32x4_t y, const float *limit)
{
    return vcgtq_f32(vabdq_f32(y, vrndnq_f32(y)), vld1q_f32(limit));
}

static inline int is_beyond(floats y, const float *limit)
{
    return vmaxvq_u32(vorrq_u32(beyond(y.val[0], limit), beyond(y.val[1], limit + 4))) != 0;
}

#include "ops_loops.h"
const int_loops *const int_loops_neon = &loops;
#else
const int_loops *const int_loops_neon = NULL;
#endif
