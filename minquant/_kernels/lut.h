/* Matrix-vector products by look-up: an alternative to gemm.c for weights of 1 and 2 bits on processors
 * without an 8-bit dot product (the idea of DeepGEMM and T-MAC). g = 4 / bits weights of one column share a
 * nibble, and the 16 sums that they can make of g activations are a table, made once and used for every
 * column:
 *
 *   table[i] = sum over j < g of a[k + j] * levels[i >> bits * j & (2^bits - 1)]
 *
 * Sums are exact. P is the greatest activation times the greatest magnitude of a level:
 *
 *   BYTES  g P depth <= 127 with depth >= 4: entries and sums in int8 over `depth` look-ups
 *          (activations and weights of 2 bits, 2 * 3 * 2 = 12: 10 look-ups)
 *   WORDS  g P depth <= 32767 with depth >= 4: entries as a low and a high byte, sums in int16
 *          (any activations, 2 bits: 2 * 255 * 2 = 1020: 32 look-ups; 1 bit: 4 * 255 * 1: 32)
 *
 * Weights beyond these bounds are not taken. Checks of arguments are the caller's.
 */
#ifndef MINQUANT_LUT_H
#define MINQUANT_LUT_H
#include "int.h"

typedef struct lut_weights lut_weights;

/* Whether this instruction set has the kernel, and it takes such weights: bits is 1 or 2, the bounds hold. */
int lut_takes(const int_isa *isa, int bits, const int8_t *levels, int top);

/* codes: k x columns, row-major; levels: 2^bits; top: greatest activation. NULL where memory is short. */
lut_weights *lut_weights_new(const int_isa *isa, const uint8_t *codes, int k, int columns, int bits,
                             const int8_t *levels, int top);
void lut_weights_free(lut_weights *w);
size_t lut_weights_bytes(const lut_weights *w);

/* out[n] = sum over k of (a[k] - zero_point) * levels[codes[k][n]] for one row of activations. */
void lut_gemv(const lut_weights *w, const uint8_t *a, int zero_point, int32_t *out);

/* ---- What an instruction set provides (lut_tile.h) ----
 * A panel is LUT_COLUMNS columns; byte [pair][column] holds the nibbles of groups 2 pair and 2 pair + 1:
 *
 *   2 bits   | k + 3 | k + 2 | k + 1 |   k   |        1 bit   | k + 7 | .. | k |
 *   bit       7     6 5     4 3     2 1     0
 */
#define LUT_COLUMNS 128
#define LUT_GROUPS 256 /* tables made at a time: they stay in the first-level cache */

typedef struct {
    const uint8_t *codes;  /* of a panel: pairs x LUT_COLUMNS */
    const uint8_t *tables; /* pairs x 2 x 16 bytes, or x 32: low bytes, then high ones */
    int pairs, words, depth;
    int32_t *sums; /* LUT_COLUMNS, added to */
} lut_tile;

typedef void lut_function(const lut_tile *t);
extern lut_function *const lut_avx2, *const lut_neon; /* NULL where the compiler could not build it */

#endif
