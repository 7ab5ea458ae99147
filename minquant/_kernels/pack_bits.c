/* The storage format: codes of b bits in one little-endian stream of ceil(b * count / 8) bytes, no padding
 * between rows. Bit i of code e is bit (e * b + i) of the stream; bit j of the stream is bit (j % 8) of byte
 * j / 8:
 *
 *   b = 3    byte 0                          byte 1
 *   bit      7   6   5   4   3   2   1   0   7   6   5   4   3   2   1   0
 *   code    |  2   2 | 1   1   1 | 0   0   0 | 5 | 4   4   4 | 3   3   3 | 2 |
 */
#include "int.h"

void int_pack_bits(const uint8_t *codes, size_t count, int bits, uint8_t *stream)
{
    unsigned pending = 0;
    int held = 0;
    for (size_t e = 0; e < count; e++) {
        pending |= (unsigned)codes[e] << held;
        held += bits;
        if (held >= 8) {
            *stream++ = (uint8_t)pending;
            pending >>= 8;
            held -= 8;
        }
    }
    if (held)
        *stream = (uint8_t)pending;
}

void int_unpack_bits(const uint8_t *stream, size_t count, int bits, uint8_t *codes)
{
    unsigned pending = 0, mask = (1u << bits) - 1;
    int held = 0;
    for (size_t e = 0; e < count; e++) {
        if (held < bits) {
            pending |= (unsigned)*stream++ << held;
            held += 8;
        }
        codes[e] = (uint8_t)(pending & mask);
        pending >>= bits;
        held -= bits;
    }
}
