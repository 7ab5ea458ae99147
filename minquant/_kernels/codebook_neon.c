/* Weight-only products with the NEON of every 64-bit ARM processor: tbl looks up the four bytes of a float.
 */
#include "codebook.h"
#if defined(__aarch64__)
#include <arm_neon.h>
#include <string.h>

#define ROWS 6
#define FUSED_ROWS 1
#define VECTORS 4
#define LANES 4
#define NAME "neon"
typedef float32x4_t floats;
typedef uint32x4_t words;
typedef uint8x16x4_t books;

static inline floats load(const float *from) { return vld1q_f32(from); }
static inline void save(float *to, floats x) { vst1q_f32(to, x); }
static inline floats repeat(const float *from) { return vld1q_dup_f32(from); }
static inline floats multiply_add(floats acc, floats x, floats w) { return vfmaq_f32(acc, x, w); }
static inline words load_words(const uint32_t *from) { return vld1q_u32(from); }
static inline words next_codes(words codes, int bits) { return vshlq_u32(codes, vdupq_n_s32(-bits)); }

static inline books load_books(const float *book, int bits)
{
    (void)bits;
    return vld1q_u8_x4((const uint8_t *)(const void *)book);
}

static inline floats look_up(books b, words codes, int bits)
{
    words each = vandq_u32(codes, vdupq_n_u32((1u << bits) - 1)); /* then bytes 4 code .. 4 code + 3 */
    uint8x16_t bytes =
        vreinterpretq_u8_u32(vmlaq_u32(vdupq_n_u32(0x03020100), each, vdupq_n_u32(0x04040404)));
    return vreinterpretq_f32_u8(bits < 4 ? vqtbl1q_u8(b.val[0], bytes) : vqtbl4q_u8(b, bytes));
}

#include "codebook_tile.h"
static const struct codebook_isa isa = {NAME, ROWS, PANEL, FUSED_ROWS, decode, tile, depthwise};
const struct codebook_isa *const codebook_isa_neon = &isa;
#else
const struct codebook_isa *const codebook_isa_neon = NULL;
#endif
