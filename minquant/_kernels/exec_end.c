/* What ends sums: requantization, alone or with a shortcut, and logits. */
#include "exec_plan.h"
#include <math.h>
#include <string.h>

/* value(acc) of column `column` of `columns`, every step rounded to float64. */
double exec_value(const exec_op *op, double acc, int column, int columns)
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

/* The wide channels of a row whose float32 value is in doubt, in float64. */
static void settle_row(const exec_end *end, const int32_t *acc, int first, int columns, const uint8_t *k,
                       uint8_t *to)
{
    const exec_op *op = end->op;
    const exec_made *m = end->made;
    for (int j = 0; j < columns; j++) {
        int channel = first + j;
        if (m->index[channel] < 0)
            continue;
        float scaled = (float)acc[j] * m->q.multiplier[channel];
        float y = scaled + m->q.offset[channel];
        float beside = m->shortcut.table ? m->shortcut.table[k[j]] : (float)k[j] * m->shortcut.slope[0];
        y = y + beside;
        if (fabsf(y - rintf(y)) > 0.5f - m->shortcut.margin[channel]) {
            double value =
                exec_value(op, acc[j], m->index[channel], m->wide_columns) + op->wide_shortcut[k[j]];
            to[j] = boundaries_reached(op->wide_boundaries, op->top, value);
        }
    }
}

static void add_row(const exec_end *end, const int32_t *acc, int first, int columns, const uint8_t *k,
                    uint8_t *to)
{
    const exec_made *m = end->made;
    int doubt = (*end->isa->loops)->end(&m->q, &m->shortcut, acc, k, first, columns, to);
    if (m->index && doubt)
        settle_row(end, acc, first, columns, k, to);
}

static void requantize_row(const exec_end *end, const int32_t *acc, int first, int columns, uint8_t *to)
{
    const int_requantization *q = &end->made->q;
    (*end->isa->loops)->end(q, NULL, acc, NULL, first, columns, to);
    for (int j = 0; q->direction && j < columns; j++)
        if (q->direction[first + j])
            to[j] = int_ladder(q, first + j, acc[j]);
}

int exec_end_is_cheap(const exec_op *op, const exec_made *made)
{
    return op->kind == EXEC_REQUANTIZE && int_is_cheap(&made->q);
}

void exec_end_rows(const exec_end *end, const int_sums *s)
{
    int kind = end->op ? (int)end->op->kind : -1;
    for (int r = 0; r < s->rows; r++) {
        const int32_t *acc = s->acc + (ptrdiff_t)r * s->pitch;
        ptrdiff_t place = s->run * end->out_line + (s->row + r) * end->out_row + s->first;
        ptrdiff_t beside = s->run * end->shortcut_line + (s->row + r) * end->shortcut_row + s->first;
        if (kind == EXEC_LOGITS)
            for (int j = 0; j < s->columns; j++)
                ((double *)end->out)[place + j] =
                    exec_value(end->op, acc[j], s->first + j, end->op->channels);
        else if (kind == EXEC_ADD_REQUANTIZE)
            add_row(end, acc, s->first, s->columns, end->shortcut + beside, (uint8_t *)end->out + place);
        else if (kind == EXEC_REQUANTIZE)
            requantize_row(end, acc, s->first, s->columns, (uint8_t *)end->out + place);
        else
            memcpy((int32_t *)end->out + place, acc, (size_t)s->columns * sizeof *acc);
    }
}
