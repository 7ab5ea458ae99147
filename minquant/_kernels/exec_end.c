/* What ends sums: requantization, alone or with a shortcut, and logits; where a step writes them. */
#include "exec_plan.h"
#include <math.h>
#include <string.h>

#define END_ROWS 32 /* bits of a doubt */

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
        if (fabsf(y - rintf(y)) > m->q.limit[channel]) {
            double value =
                exec_value(op, acc[j], m->index[channel], m->wide_columns) + op->wide_shortcut[k[j]];
            to[j] = boundaries_reached(op->wide_boundaries, op->top, value);
        }
    }
}

static void add_rows(const exec_end *end, const int_ending *e)
{
    const exec_made *m = end->made;
    uint32_t doubt = (*end->isa->loops)->end(&m->q, &m->shortcut, e);
    for (int r = 0; m->index && doubt && r < e->rows; r++)
        if (doubt >> r & 1)
            settle_row(end, e->acc + r * e->acc_row, e->first, e->columns, e->k + r * e->k_row,
                       e->to + r * e->to_row);
}

static void requantize_rows(const exec_end *end, const int_ending *e)
{
    const int_requantization *q = &end->made->q;
    uint32_t doubt = (*end->isa->loops)->end(q, NULL, e);
    for (int r = 0; q->direction && doubt && r < e->rows; r++)
        if (doubt >> r & 1)
            int_climb(q, e->acc + r * e->acc_row, e->first, e->columns, e->to + r * e->to_row);
}

/* Logits, or sums as they are, of one row. */
static void store_row(const exec_end *end, const int32_t *acc, int first, int columns, ptrdiff_t place)
{
    if (end->op)
        for (int j = 0; j < columns; j++)
            ((double *)end->out)[place + j] = exec_value(end->op, acc[j], first + j, end->op->channels);
    else
        memcpy((int32_t *)end->out + place, acc, (size_t)columns * sizeof *acc);
}

void exec_end_rows(const exec_end *end, const int_sums *s)
{
    int codes = end->op && end->op->kind != EXEC_LOGITS;
    for (int r = 0; r < s->rows; r += codes ? END_ROWS : 1) {
        const int32_t *acc = s->acc + (ptrdiff_t)r * s->pitch;
        ptrdiff_t place =
            s->image * end->out_image + s->run * end->out_line + (s->row + r) * end->out_row + s->first;
        if (!codes) {
            store_row(end, acc, s->first, s->columns, place);
            continue;
        }
        ptrdiff_t beside = s->image * end->shortcut_image + s->run * end->shortcut_line +
                           (s->row + r) * end->shortcut_row + s->first;
        int_ending e = {.acc = acc,
                        .k = end->shortcut ? end->shortcut + beside : NULL,
                        .to = (uint8_t *)end->out + place,
                        .acc_row = s->pitch,
                        .k_row = end->shortcut_row,
                        .to_row = end->out_row,
                        .rows = int_min(END_ROWS, s->rows - r),
                        .first = s->first,
                        .columns = s->columns};
        if (end->op->kind == EXEC_ADD_REQUANTIZE)
            add_rows(end, &e);
        else
            requantize_rows(end, &e);
    }
}

int exec_kind_of_ending(const exec *e, const exec_step *s)
{
    return s->ending < 0 ? -1 : (int)e->net->ops[s->ending].kind;
}

/* Where a step writes the results of an image, and what ends its sums; out is NULL where nobody wants them.
 */
exec_end exec_end_of(const exec_batch *b, const exec_step *s, int image)
{
    const exec *e = b->e;
    const exec_op *op = e->net->ops + (s->ending < 0 ? s->op : s->ending);
    ptrdiff_t size = (ptrdiff_t)op->height * op->width * op->channels, before = (b->first + image) * size;
    exec_end end = {.isa = e->isa,
                    .out_row = op->channels,
                    .out_line = (ptrdiff_t)op->width * op->channels,
                    .out_image = size};
    if (s->ending >= 0) {
        end.op = op;
        end.made = e->made + s->ending;
    }
    if (exec_kind_of_ending(e, s) == EXEC_LOGITS) {
        void *tap = b->call->taps ? b->call->taps[s->ending] : NULL;
        double *to = s->ending == e->net->count - 1 ? b->call->logits : tap;
        end.out = to ? to + before : NULL;
    } else if (s->output < 0)
        end.out = (int32_t *)b->call->taps[s->op] + before;
    else {
        const exec_tensor *t = e->tensors + s->output;
        end.out = exec_at(b, s->output, image);
        end.out_image = t->image / t->element;
        end.out_line = t->line / t->element;
        end.out_row = t->pitch;
    }
    if (s->shortcut >= 0) {
        const exec_tensor *t = e->tensors + s->shortcut;
        end.shortcut = exec_at(b, s->shortcut, image);
        end.shortcut_image = t->image;
        end.shortcut_line = t->line;
        end.shortcut_row = t->channels;
    }
    return end;
}
