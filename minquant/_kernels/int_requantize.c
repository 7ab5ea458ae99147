/* Requantization: what int.h defines, one code at a time. Tiles without thresholds have their own vector
 * form. */
#include "int.h"
#include <math.h>

static uint8_t ladder(const int_requantization *q, int channel, int32_t acc)
{
    const int32_t *thresholds = q->thresholds + (size_t)channel * (size_t)q->steps;
    int code = 0;
    for (int i = 0; i < q->steps; i++)
        code += q->direction[channel] > 0 ? acc >= thresholds[i] : acc <= thresholds[i];
    return (uint8_t)code;
}

void int_requantize(const int_requantization *q, const int32_t *acc, int first, int columns, uint8_t *to)
{
    for (int j = 0; j < columns; j++) {
        int channel = first + j;
        float scaled = (float)acc[j] * q->multiplier[channel];
        float y = rintf(scaled + q->offset[channel]);
        if (q->direction && q->direction[channel])
            to[j] = ladder(q, channel, acc[j]);
        else
            to[j] = (uint8_t)(y > 0 ? y < (float)q->top ? y : (float)q->top : 0);
    }
}
