/* Integer kernels: uint8 or int8 activations times weights of 1..8 bits, exact in int32, on every instruction
 * set.
 *
 *   acc[i][n] = sum over k of (a[i][k] - zero_point) * levels[codes[k][n]]
 *
 * Every sum fits int32 while K <= INT_MAX_K: 255 * 128 * 65793 = 2^31 - 128. Partial sums may wrap around;
 * the last one is right, because the arithmetic is modulo 2^32. Functions that return int give 0, or -1 where
 * memory is short. `threads` never changes a result. Checks of arguments are the caller's.
 */
#ifndef MINQUANT_INT_H
#define MINQUANT_INT_H
#include <stddef.h>
#include <stdint.h>

#define INT_MAX_K 65793
#define INT_MAX_COLUMNS 64 /* arrays with one entry per output channel are padded to a multiple of this */
#define INT_MAX_TAPS 1024  /* kernel_h * kernel_w of a convolution */
#define INT_BLOCK 16       /* channels of the widest vector */

/* ---- Instruction sets (dispatch.c) ---- */
typedef struct int_isa int_isa;
const int_isa *int_isa_at(int index); /* those of this machine, best first; NULL behind the last */
/* Of those compiled in, best first: whose code computes the operations of a family; its own name for
 * products; "-" where none does. */
enum { INT_PRODUCTS, INT_LOOPS, INT_CODEBOOKS, INT_LOOKUPS };
const char *int_isa_provider(int index, int family);
const int_isa *int_isa_find(const char *name); /* NULL where this machine or this build has it not */
const char *int_isa_name(const int_isa *isa);
int int_isa_rate(const int_isa *isa); /* multiply-adds of a thread in a nanosecond, about */
int int_has_openmp(void);

/* ---- Storage: one little-endian stream of b-bit codes (pack_bits.c) ---- */
void int_pack_bits(const uint8_t *codes, size_t count, int bits, uint8_t *stream);
void int_unpack_bits(const uint8_t *stream, size_t count, int bits, uint8_t *codes);

/* Codes of weights where they are stored: row k, column n is code k * pitch + first + n of a stream. */
typedef struct {
    const uint8_t *stream;
    int bits, pitch, first;
} int_codes;

static inline int int_code(const int_codes *c, int k, int n)
{
    size_t e = (size_t)k * (size_t)c->pitch + (size_t)(c->first + n), bit = e * (size_t)c->bits;
    if (c->bits == 8)
        return c->stream[e];
    int low = c->stream[bit / 8] >> bit % 8;
    int high = bit % 8 + (size_t)c->bits > 8 ? c->stream[bit / 8 + 1] << (8 - bit % 8) : 0;
    return (low | high) & ((1 << c->bits) - 1);
}

/* ---- Weights in the layout of one instruction set (gemm_weights.c) ----
 * codes: (segments * length) x columns, row-major. levels: 2^bits of them. A segment is a run of `length`
 * inputs that lie side by side: all of K in a matrix product, one kernel row in a convolution. top: the
 * greatest code of the activations (255: any); the smaller it is, the longer kernels may add in few bits. */
typedef struct int_weights int_weights;
int_weights *int_weights_new(const int_isa *isa, const uint8_t *codes, int segments, int length, int columns,
                             int bits, const int8_t *levels, int top);
void int_weights_free(int_weights *w);

/* The same in memory of the caller, 64-byte aligned and of int_weights_size bytes; nothing is freed. */
size_t int_weights_size(const int_isa *isa, int segments, int length, int columns, int bits,
                        const int8_t *levels);
int_weights *int_weights_init(void *memory, const int_isa *isa, const int_codes *codes, int segments,
                              int length, int columns, int bits, const int8_t *levels, int top);
size_t int_weights_bytes(const int_weights *w);
int int_weights_top(const int_weights *w);

/* ---- From the accumulator to the next code (int_requantize.c) ----
 * Channel n with direction 0: y = float(acc) * multiplier[n] + offset[n], every operation rounded to float32;
 * the code is clip(rint(y), 0, top), or with boundaries the number of those `top` that y reaches (y >= b).
 * Direction +1 (-1): the number of its `steps` thresholds t with acc >= t (acc <= t). direction is NULL where
 * it is 0 everywhere. */
typedef struct {
    const float *multiplier, *offset;
    const float *boundaries; /* ascending; NULL: round */
    const int8_t *direction;
    const int32_t *thresholds; /* `steps` each of row n or, where there are rows, of rows[n] */
    const int32_t *rows;
    int steps, top;
    const float *limit; /* NULL, or the code of a y farther than limit[n] from an integer is in doubt */
    float least;        /* limit; at 0 and below a code may be off by more than one */
} int_requantization;

/* A second operand: y + value of its code k. The value is table[k] or, without a table, k * slope. */
typedef struct {
    const float *table; /* INT_BLOCK entries at least */
    int count;
    float slope[INT_BLOCK]; /* the same number in every lane */
} int_shortcut;

void int_requantize(const int_requantization *q, const int32_t *acc, int first, int columns, uint8_t *to);
uint8_t int_ladder(const int_requantization *q, int channel, int32_t acc); /* direction is not 0 */
uint8_t int_code_of(const int_requantization *q, float y);                 /* of a channel with direction 0 */

/* Puts right what may be in doubt of codes that are those of rounding: those of channels with a direction. */
void int_climb(const int_requantization *q, const int32_t *acc, int first, int columns, uint8_t *to);

/* ---- Products (gemm.c) ---- */
typedef struct {
    int zero_point;              /* of the activations, in their own type */
    int is_signed;               /* activations are int8 */
    const int_requantization *q; /* NULL: the result is int32, else uint8 codes */
    int threads;
} int_options;

/* a: m x K, rows `row` bytes apart; out: m x columns, rows `out_row` elements apart. */
int int_gemm(const int_weights *w, int m, const uint8_t *a, ptrdiff_t row, void *out, ptrdiff_t out_row,
             const int_options *options);

/* ---- Convolution of NHWC codes (conv_run.c) ---- */
typedef struct {
    int images, height, width, channels, kernel_h, kernel_w, stride_h, stride_w, pad_top, pad_left, out_h,
        out_w;
    int groups, columns; /* columns: output channels of all groups */
} int_window;

/* w: one per group, packed with the segments of conv_segments. Padding holds the zero point. */
int int_conv(const int_window *s, int_weights *const *w, const uint8_t *x, void *out,
             const int_options *options);
void int_conv_segments(const int_window *s, int *segments, int *length);

/* ---- Depthwise convolution, pooling, addition, quantization (ops_run.c) ----
 * levels: taps x channels up to a multiple of INT_BLOCK; sums: per channel, of the levels. groups = columns =
 * channels. */
int int_depthwise(const int_isa *isa, const int_window *s, const int16_t *levels, const int32_t *sums,
                  const uint8_t *x, void *out, const int_options *options);

/* Windows without the padding: outside the image there is nothing. columns = channels. */
int int_max_pool(const int_isa *isa, const int_window *s, const uint8_t *x, uint8_t *out,
                 const int_options *options);
int int_sum_pool(const int_isa *isa, const int_window *s, const uint8_t *x, void *out,
                 const int_options *options);

/* clip(rint((a * multiplier_a + b * multiplier_b) + offset), 0, top), each operation rounded to float32 */
typedef struct {
    const float *multiplier_a, *multiplier_b, *offset;
    int top, signed_a, signed_b;
} int_addition;

/* Of `count` elements; the factors repeat every `period` of them, a multiple of INT_BLOCK. */
void int_add(const int_isa *isa, const int_addition *s, ptrdiff_t count, int period, const uint8_t *a,
             const uint8_t *b, uint8_t *out, int threads);

/* clip(rint(x * multiplier + offset), 0, top) of float32; not-a-number gives 0 */
void int_quantize(const int_isa *isa, const int_requantization *q, ptrdiff_t count, int period,
                  const float *x, uint8_t *out, int threads);

/* ---- Naive loops, the second oracle (int_naive.c) ---- */
void int_gemm_naive(int m, int k, int n, const uint8_t *a, ptrdiff_t row, const uint8_t *codes,
                    const int8_t *levels, int32_t *out, const int_options *options);
void int_conv_naive(const int_window *s, const uint8_t *x, const uint8_t *codes, const int8_t *levels,
                    int32_t *out, const int_options *options);

#endif
