/* Requantization: what int.h defines, one code at a time. Tiles without thresholds and boundaries have their
 * own vector form. */
#include "int.h"
#include <math.h>

uint8_t int_ladder(const int_requantization *q, int channel, int32_t acc)
{
    int row = q->rows ? q->rows[channel] : channel, code = 0;
    const int32_t *thresholds = q->thresholds + (size_t)row * (size_t)q->steps;
    for (int i = 0; i < q->steps; i++)
        code += q->direction[channel] > 0 ? acc >= thresholds[i] : acc <= thresholds[i];
    return (uint8_t)code;
}

uint8_t int_code_of(const int_requantization *q, float y)
{
    if (q->boundaries) {
        int code = 0;
        for (int i = 0; i < q->top; i++)
            code += y >= q->boundaries[i];
        return (uint8_t)code;
    }
    y = rintf(y);
    return (uint8_t)(y > 0 ? y < (float)q->top ? y : (float)q->top : 0);
}

void int_climb(const int_requantization *q, const int32_t *acc, int first, int columns, uint8_t *to)
{
    for (int c = first; c < first + columns; c++, acc++, to++) {
        if (!q->direction[c])
            continue;
        const int32_t *t = q->thresholds + (ptrdiff_t)q->rows[c] * q->steps;
        int side = q->direction[c], code = *to;
        if (q->limit[c] <= 0)
            *to = int_ladder(q, c, *acc);
        else if (code < q->steps && (side > 0 ? *acc >= t[code] : *acc <= t[code]))
            *to = (uint8_t)(code + 1);
        else if (code && (side > 0 ? *acc < t[code - 1] : *acc > t[code - 1]))
            *to = (uint8_t)(code - 1);
    }
}

void int_requantize(const int_requantization *q, const int32_t *acc, int first, int columns, uint8_t *to)
{
    for (int j = 0; j < columns; j++) {
        int channel = first + j;
        float scaled = (float)acc[j] * q->multiplier[channel];
        if (q->direction && q->direction[channel])
            to[j] = int_ladder(q, channel, acc[j]);
        else
            to[j] = int_code_of(q, scaled + q->offset[channel]);
    }
}
