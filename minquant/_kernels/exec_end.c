/* What ends sums: requantization, alone or with a shortcut, and logits. */
#include "exec_plan.h"
#include <string.h>

/* value(acc) of column `column` of `columns`, every step rounded to float64. */
static double value_of(const exec_op *op, int32_t acc, int column, int columns)
{
    double value = acc;
    for (int i = 0; i < op->steps; i++) {
        double operand = op->values[(ptrdiff_t)i * columns + column];
        switch (op->arithmetic[i]) {
        case EXEC_MULTIPLY:
            value *= operand;
            break;
        case EXEC_DIVIDE:
            value /= operand;
            break;
        default:
            value += operand;
        }
    }
    return value;
}

/* The number of ascending boundaries that are not above the value; all where it is not a number. */
static uint8_t boundaries_reached(const double *boundaries, int count, double value)
{
    int low = 0;
    while (count > 0) {
        int half = count / 2;
        if (boundaries[low + half] > value)
            count = half;
        else {
            low += half + 1;
            count -= half + 1;
        }
    }
    return (uint8_t)low;
}

static void add_row(const exec_end *end, const int32_t *acc, int first, int columns, int wide_columns,
                    const uint8_t *shortcut, uint8_t *to)
{
    const exec_op *op = end->op;
    const int_requantization *q = &end->made->q;
    const int32_t *index = end->made->index;
    for (int j = 0; j < columns; j++) {
        int channel = first + j;
        if (index && index[channel] >= 0) {
            double value = value_of(op, acc[j], index[channel], wide_columns);
            value += op->wide_shortcut[shortcut[j]];
            to[j] = boundaries_reached(op->wide_boundaries, op->top, value);
        } else {
            float scaled = (float)acc[j] * q->multiplier[channel];
            float y = scaled + q->offset[channel];
            to[j] = int_code_of(q, y + op->shortcut[shortcut[j]]);
        }
    }
}

int exec_end_is_cheap(const exec_op *op, const exec_made *made)
{
    return op->kind == EXEC_REQUANTIZE && int_is_cheap(&made->q);
}

static int wide_columns(const exec_op *op)
{
    int count = 0;
    for (int c = 0; op->wide && c < op->channels; c++)
        count += op->wide[c];
    return count;
}

void exec_end_rows(const exec_end *end, const int_sums *s)
{
    int kind = end->op ? (int)end->op->kind : -1,
        wide = kind == EXEC_ADD_REQUANTIZE ? wide_columns(end->op) : 0;
    for (int r = 0; r < s->rows; r++) {
        const int32_t *acc = s->acc + (ptrdiff_t)r * s->pitch;
        ptrdiff_t place = s->run * end->out_line + (s->row + r) * end->out_row + s->first;
        ptrdiff_t beside = s->run * end->shortcut_line + (s->row + r) * end->shortcut_row + s->first;
        if (kind == EXEC_LOGITS)
            for (int j = 0; j < s->columns; j++)
                ((double *)end->out)[place + j] = value_of(end->op, acc[j], s->first + j, end->op->channels);
        else if (kind == EXEC_ADD_REQUANTIZE)
            add_row(end, acc, s->first, s->columns, wide, end->shortcut + beside,
                    (uint8_t *)end->out + place);
        else if (kind == EXEC_REQUANTIZE)
            int_requantize(&end->made->q, acc, s->first, s->columns, (uint8_t *)end->out + place);
        else
            memcpy((int32_t *)end->out + place, acc, (size_t)s->columns * sizeof *acc);
    }
}
