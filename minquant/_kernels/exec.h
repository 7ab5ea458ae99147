/* A network as a table of operations on integers, run in one call, in memory that the caller gives: no heap,
 * no files, of the C library only what string.h and math.h declare.
 *
 *   static const exec_op ops[] = { {.kind = EXEC_QUANTIZE_INPUT, ...}, ..., {.kind = EXEC_LOGITS, ...} };
 *   const exec_network net = {28, 28, 1, COUNT, ops};
 *   exec *e = exec_init(&net, int_isa_at(0), model);          model: exec_bytes(&net, int_isa_at(0)) bytes
 *   exec_run(e, &(exec_call){.images = 1, .pixels = image, .logits = logits, .arena = arena, .threads = 1});
 *                                                             arena: exec_arena_bytes(e, 1, 1) bytes
 *
 * Both memories are 64-byte aligned. The first holds the weights in the layout of the instruction set and is
 * only read by exec_run; the second holds activations, and one is needed for each run at the same time. The
 * table must stay where it is. All arrays are row-major; images are NHWC, kernels HWIO; channels come last.
 *
 * Tensors are numbered: 0 is the image, i + 1 what ops[i] gives. Their kinds:
 *
 *   image    uint8    pixels
 *   codes    uint8    activation codes; what they stand for belongs to the operation that reads them
 *   sums     int32    accumulators
 *   logits   double   of the last operation
 *
 * The meaning of every operation is its NumPy twin in minquant/deploy/ops.py and endings.py, to the last bit.
 * Checks of a table are the caller's: shapes fit each other, codes have levels, sums fit int32.
 */
#ifndef MINQUANT_EXEC_H
#define MINQUANT_EXEC_H
#include "int.h"

typedef enum {
    EXEC_QUANTIZE_INPUT, /* image -> codes: table[c][pixel] */
    EXEC_CONVOLUTION,    /* codes -> sums of levels * weights; padding is level 0 */
    EXEC_LINEAR,         /* codes -> sums of levels * weights */
    EXEC_SUM_POOL,       /* codes -> sums of levels over windows; stride 0: over the whole image */
    EXEC_MAX_POOL,       /* codes -> codes: the largest of windows */
    EXEC_PAD_SHORTCUT,   /* codes -> codes: every stride-th pixel, channels behind the input's are `zero` */
    EXEC_FLATTEN,        /* codes -> codes: a vector in NHWC order */
    EXEC_CONCAT,         /* any number of codes -> codes: their channels side by side */
    EXEC_REQUANTIZE,     /* sums -> codes */
    EXEC_ADD_REQUANTIZE, /* sums, codes -> codes */
    EXEC_LOGITS          /* sums -> logits */
} exec_kind;

/* Steps of a float64 expression of a sum: value = double(acc), then value = value <step> values[i][n]. */
typedef enum { EXEC_MULTIPLY, EXEC_DIVIDE, EXEC_ADD } exec_arithmetic;

/* One operation; what its kind does not name stays 0 or NULL. */
typedef struct {
    int kind;          /* exec_kind */
    int inputs[2];     /* tensors it reads; the second is the shortcut of EXEC_ADD_REQUANTIZE */
    int operand_count; /* concat: all tensors it reads, in their order */
    const int32_t *operands;
    int height, width, channels; /* of what it gives; a vector is 1 x 1 x channels */

    /* convolution, pools; stride alone: pad shortcut */
    int kernel_h, kernel_w, stride, padding, groups;

    /* convolution (kernel_h, kernel_w, inputs / groups, channels), linear (inputs, channels): a stream of
     * codes of `bits` bits (int_pack_bits), and the level of each of the first level_count codes */
    int bits, level_count;
    const uint8_t *stream;
    const int8_t *levels;

    /* convolution, linear, sum pool: level of each code read */
    int input_count;
    const int16_t *input_levels;

    const uint8_t *table; /* quantize input: channels x 256; concat: NULL, or operands x 256 new codes */
    int zero;             /* pad shortcut: the code of level 0 */

    /* requantize, add requantize: the largest code; float32 factors, one for all (factors = 1) or one per
     * channel; y = acc * multiplier + offset [+ shortcut[k] of the shortcut's code k]. The code is
     * clip(rint(y), 0, top), or with boundaries the number of those `top` that y reaches. */
    int top, factors;
    const float *multiplier, *offset, *boundaries;

    /* requantize: NULL, or for each factor 0, or 1 (-1) where the code is the number of its `top` thresholds
     * t with acc >= t (acc <= t); one row of them for each factor that is not 0, in their order */
    const int8_t *direction;
    const int32_t *thresholds;

    /* add requantize: of shortcut_count codes; NULL or 1 for each channel that is computed in double: the
     * code is the number of the `top` wide_boundaries that value + wide_shortcut[k] reaches. Logits: the
     * value. */
    int shortcut_count;
    const float *shortcut;
    const uint8_t *wide;
    const double *wide_shortcut, *wide_boundaries;
    int steps;
    const uint8_t *arithmetic; /* exec_arithmetic of each step */
    const double *values;      /* steps x wide channels in their order; logits: steps x channels */
} exec_op;

typedef struct {
    int height, width, channels; /* of the image */
    int count;
    const exec_op *ops;
} exec_network;

typedef struct exec exec; /* a network ready to run */

size_t exec_bytes(const exec_network *net, const int_isa *isa);
exec *exec_init(const exec_network *net, const int_isa *isa, void *memory);

/* For calls with up to so many images and threads. */
size_t exec_arena_bytes(const exec *e, int images, int threads);

typedef struct {
    int images;
    const uint8_t *pixels;
    double *logits; /* images x what the last operation gives */
    void *arena;
    int threads; /* at most; never changes a result */

    /* NULL, or for every operation NULL or room for what it gives, of all images: uint8, int32 or double */
    void *const *taps;

    /* NULL, or clock ticks spent in every operation, which are added to. What is computed together with the
     * product before it counts there. */
    uint64_t *ticks;
    uint64_t (*clock)(void);
} exec_call;

void exec_run(const exec *e, const exec_call *call);

#endif
