/* Weights: from codes to the panels of one instruction set (int_isa.h draws the layout). */
#include "int_isa.h"
#include <stdlib.h>
#include <string.h>

void int_conv_segments(const int_window *s, int *segments, int *length)
{
    *segments = s->groups > 1 ? s->kernel_h * s->kernel_w : s->kernel_h;
    *length = (s->groups > 1 ? 1 : s->kernel_w) * (s->channels / s->groups);
}

/* A code whose level is 0, for the padding behind a segment; -1 where the table of 2^bits entries has none.
 */
static int zero_code(int bits, int used, const int8_t *levels)
{
    for (int code = 0; code < used; code++)
        if (levels[code] == 0)
            return code;
    return used < 1 << bits ? used : -1;
}

/* Codes along k that a whole vector of the panel holds: segments are padded to a multiple of it. */
static int step(const int_isa *isa, int bits, int width)
{
    int codes = isa->vector * (8 / bits) / width;
    return codes > isa->group ? codes : isa->group;
}

/* The fewest stored bits (2, 4 or 8) that take the codes and, where segments are padded, a code of level 0.
 */
static int choose_layout(int_weights *w, int bits, const int8_t *levels)
{
    int used = 1 << bits, narrow_panel = int_panel_width(w, int_panels(w) - 1) == w->isa->narrow;
    for (int stored = 2; stored < 8; stored *= 2) {
        int to = step(w->isa, stored, narrow_panel ? w->isa->narrow : w->isa->columns);
        w->padded = int_up(w->length, to);
        w->bits = stored;
        if (bits <= stored && (w->padded == w->length || zero_code(stored, used, levels) >= 0)) {
            memcpy(w->table, levels, (size_t)used);
            return w->padded == w->length ? 0 : zero_code(stored, used, levels);
        }
    }
    w->padded = int_up(w->length, step(w->isa, 8, w->isa->columns));
    w->bits = 8;
    return 0; /* stored codes of 8 bits are levels */
}

/* Write one panel: column c of it holds column `first + c` of the codes, or the padding beyond the last. */
static void pack_panel(const int_weights *w, const int_codes *from, const int8_t *levels, int first,
                       int width, int pad, uint8_t *to)
{
    const int_isa *isa = w->isa;
    int per_byte = 8 / w->bits, block = isa->vector * per_byte;
    for (int k = 0; k < w->segments * w->padded; k++) {
        int segment = k / w->padded, inner = k % w->padded;
        for (int c = 0; c < width; c++) {
            int code = pad, n = first + c;
            if (inner < w->length && n < w->columns) {
                code = int_code(from, segment * w->length + inner, n);
                code = w->bits == 8 ? (uint8_t)levels[code] : code;
            }
            size_t place = ((size_t)(k / isa->group) * (size_t)width + (size_t)c) * (size_t)isa->group +
                           (size_t)(k % isa->group);
            int rest = (int)(place % (size_t)block);
            size_t byte = place / (size_t)block * (size_t)isa->vector + (size_t)(rest % isa->vector);
            to[byte] = (uint8_t)(to[byte] | code << w->bits * (rest / isa->vector));
        }
    }
}

static void sum_columns(int_weights *w, const int_codes *from, const int8_t *levels, int top)
{
    int largest = 0;
    for (int k = 0; k < w->segments * w->length; k++)
        for (int n = 0; n < w->columns; n++) {
            int level = levels[int_code(from, k, n)];
            w->sums[n] += level;
            largest = abs(level) > largest ? abs(level) : largest;
        }
    w->product = (w->centre ? w->centre : top) * largest;
    w->wide = w->product > w->isa->widest_product;
}

/* A description without its arrays; the code behind segments. */
static int_weights describe(const int_isa *isa, int segments, int length, int columns, int bits,
                            const int8_t *levels, int *pad)
{
    int_weights w = {.isa = isa, .segments = segments, .length = length, .columns = columns};
    *pad = choose_layout(&w, bits, levels);
    for (int p = 0; p < int_panels(&w); p++)
        w.bytes += int_panel_codes(&w, int_panel_width(&w, p)) * (size_t)w.bits / 8;
    return w;
}

/* The parts of an int_weights in one block: itself, the sums, the panels with room for a whole vector behind.
 */
#define HEAD ((sizeof(int_weights) + 63) / 64 * 64)
static size_t sums_bytes(int columns)
{
    return (size_t)int_up(columns + 1, INT_MAX_COLUMNS) * sizeof(int32_t);
}

size_t int_weights_size(const int_isa *isa, int segments, int length, int columns, int bits,
                        const int8_t *levels)
{
    int pad;
    int_weights w = describe(isa, segments, length, columns, bits, levels, &pad);
    return HEAD + sums_bytes(columns) + (w.bytes + 127) / 64 * 64;
}

int_weights *int_weights_init(void *memory, const int_isa *isa, const int_codes *codes, int segments,
                              int length, int columns, int bits, const int8_t *levels, int top)
{
    int pad;
    int_weights *w = memory;
    *w = describe(isa, segments, length, columns, bits, levels, &pad);
    w->top = top;
    w->centre = top <= isa->plain_top ? 0 : isa->centre;
    w->sums = (int32_t *)(void *)((uint8_t *)memory + HEAD);
    w->panels = (uint8_t *)memory + HEAD + sums_bytes(columns);
    memset(w->sums, 0, sums_bytes(columns));
    memset(w->panels, 0, w->bytes + 64);
    sum_columns(w, codes, levels, top);
    uint8_t *to = w->panels;
    for (int p = 0; p < int_panels(w); p++) {
        int width = int_panel_width(w, p);
        pack_panel(w, codes, levels, p * isa->columns, width, pad, to);
        to += int_panel_codes(w, width) * (size_t)w->bits / 8;
    }
    return w;
}

size_t int_weights_bytes(const int_weights *w) { return w->bytes; }

int int_weights_top(const int_weights *w) { return w->top; }
