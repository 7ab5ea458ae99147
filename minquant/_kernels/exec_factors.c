/* Factors of requantizations as the kernels read them: padded to whole vectors, exact or with a limit. */
#include "exec_plan.h"
#include <math.h>

/* Factors of all channels and, behind them, from the first on again: whole vectors are read, and a row of a
 * product may hold several pixels. */
static float *spread(exec_block *b, const float *from, int count, int channels)
{
    int padded = (channels / INT_MAX_COLUMNS + 2) * INT_MAX_COLUMNS; /* a group may begin anywhere */
    float *to = exec_take(b, (size_t)padded * sizeof *to);
    if (to)
        for (int i = 0; i < padded; i++)
            to[i] = from[count == 1 ? 0 : i % channels];
    return to;
}

static const float no_doubt = 0.5f, all_doubt = -1;

/* The limit of a channel with a ladder: half a code less how far the line is from the ladder where the code
 * changes; both are monotone, so that it is nowhere farther. */
static float ladder_limit(const int32_t *t, int top, int direction, float multiplier, float offset)
{
    float farthest = multiplier * (float)direction < 0 ? 1 : 0; /* one that falls where the codes rise */
    for (int j = 0; j < top; j++) {
        int64_t step = j ? ((int64_t)t[j] - t[j - 1]) * direction : 1;
        int32_t before = (int32_t)((int64_t)t[j] - direction); /* the last sum of code j */
        float low = (float)before * multiplier, high = (float)t[j] * multiplier;
        low = low + offset - ((float)j + 0.5f);
        high = (float)j + 0.5f - (high + offset);
        farthest = fmaxf(farthest, fmaxf(low, high));
        if (step < 1 || !(farthest < no_doubt))
            return all_doubt;
    }
    return no_doubt - (farthest + 1.0f / (1 << 20)); /* what comparing adds */
}

/* Rows of thresholds, and limits of what rounding gives. */
static void make_ladder(exec_block *b, const exec_op *op, exec_made *m)
{
    int8_t *direction = exec_take(b, (size_t)op->channels);
    int32_t *rows = exec_take(b, (size_t)op->channels * sizeof *rows);
    float *limit = spread(b, &no_doubt, 1, op->channels);
    if (!b->base)
        return;
    int row = 0;
    m->q.least = no_doubt;
    for (int c = 0; c < op->channels; c++) {
        const int32_t *t = op->thresholds + (ptrdiff_t)row * op->top;
        direction[c] = op->direction[op->factors == 1 ? 0 : c];
        rows[c] = row;
        if (direction[c])
            limit[c] = op->boundaries
                           ? all_doubt
                           : ladder_limit(t, op->top, direction[c], m->q.multiplier[c], m->q.offset[c]);
        m->q.least = fminf(m->q.least, limit[c]);
        m->ladders += direction[c] != 0;
        row += op->factors > 1 && direction[c];
    }
    m->q.direction = direction;
    m->q.rows = rows;
    m->q.thresholds = op->thresholds;
    m->q.steps = op->top;
    m->q.limit = limit;
}

/* A line that wide channels are near: in steps of the code, value(acc) + wide_shortcut[k] is
 * acc * multiplier + offset + k * slope within half a code less its limit. */
typedef struct {
    double first, step, uneven; /* boundary j lies at first + (j - 1) * step, within uneven steps */
    double slope, bent, reach;  /* of the shortcut, what it departs from a line, its largest magnitude */
} near_line;

static double magnitude(double x) { return x < 0 ? -x : x; }

static near_line line_of(const exec_op *op)
{
    near_line l = {.first = op->wide_boundaries[0]};
    int top = op->top, count = op->shortcut_count;
    l.step = top > 1 ? (op->wide_boundaries[top - 1] - l.first) / (top - 1) : 1;
    for (int j = 0; j < top; j++) {
        double off = magnitude(op->wide_boundaries[j] - l.first - j * l.step) / l.step;
        l.uneven = off > l.uneven ? off : l.uneven;
    }
    l.slope = count > 1 ? (op->wide_shortcut[count - 1] - op->wide_shortcut[0]) / (count - 1) / l.step : 0;
    for (int k = 0; k < count; k++) {
        double at = op->wide_shortcut[k] / l.step;
        double off = magnitude(at - op->wide_shortcut[0] / l.step - k * l.slope);
        l.bent = off > l.bent ? off : l.bent;
        l.reach = magnitude(at) > l.reach ? magnitude(at) : l.reach;
    }
    return l;
}

/* Factors and limit of one wide channel: half a code less how far float32 may be from its value. Every
 * float32 operation and factor is off by 2^-24 of what it handles, together less than 2^-21 of the largest;
 * every float64 step of the expression by 2^-53. */
static float wide_limit(const exec_op *op, const near_line *l, int column, int columns, float *multiplier,
                        float *offset)
{
    const double far = 1 << 30;
    double slope = (exec_value(op, far, column, columns) - exec_value(op, -far, column, columns)) / far / 2;
    double at_0 = exec_value(op, 0, column, columns), largest = 0;
    for (int i = 0; i < op->steps; i++) { /* of the terms that make the value at 0 */
        double operand = magnitude(op->values[(ptrdiff_t)i * columns + column]);
        largest = op->arithmetic[i] == EXEC_MULTIPLY ? largest * operand
                  : op->arithmetic[i] == EXEC_DIVIDE ? largest / operand
                                                     : largest + operand;
    }
    double shift = (at_0 + op->wide_shortcut[0] - l->first) / l->step + 0.5;
    double size = op->top + 2 + magnitude(shift) + 2 * l->reach;
    double margin = l->uneven + l->bent + size / (1 << 21) + largest / l->step / (1ll << 44);
    *multiplier = (float)(slope / l->step);
    *offset = (float)shift;
    if (l->step > 0 && margin < 0.25 && magnitude(*multiplier) < 1e6)
        return no_doubt - (float)margin;
    *multiplier = *offset = 0;
    return all_doubt;
}

/* All channels wide: those of an addition of 8 bits. In others, wide channels are few and always in doubt. */
static void make_wide(exec_block *b, const exec_op *op, exec_made *m, float *multiplier, float *offset)
{
    int32_t *index = exec_take(b, (size_t)op->channels * sizeof *index);
    float *limit = spread(b, &no_doubt, 1, op->channels);
    m->index = index;
    m->q.limit = limit;
    if (!b->base)
        return;
    for (int c = 0; c < op->channels; c++)
        index[c] = op->wide[c] ? m->wide_columns++ : -1;
    near_line line = line_of(op);
    int all = m->wide_columns == op->channels && !op->boundaries;
    for (int c = 0; c < op->channels; c++)
        if (index[c] >= 0)
            limit[c] = all ? wide_limit(op, &line, index[c], m->wide_columns, multiplier + c, offset + c)
                           : all_doubt;
    if (all) {
        m->shortcut.table = NULL;
        for (int i = 0; i < INT_BLOCK; i++)
            m->shortcut.slope[i] = (float)line.slope;
    }
}

static void make_shortcut(exec_block *b, const exec_op *op, exec_made *m)
{
    float *table = exec_take(b, (size_t)int_up(op->shortcut_count, INT_BLOCK) * sizeof *table);
    for (int k = 0; table && k < int_up(op->shortcut_count, INT_BLOCK); k++)
        table[k] = k < op->shortcut_count ? op->shortcut[k] : 0;
    m->shortcut.table = table;
    m->shortcut.count = op->shortcut_count;
}

void exec_make_requantization(exec_block *b, const exec_op *op, exec_made *m)
{
    float *multiplier = spread(b, op->multiplier, op->factors, op->channels);
    float *offset = spread(b, op->offset, op->factors, op->channels);
    m->q = (int_requantization){
        .top = op->top, .multiplier = multiplier, .offset = offset, .boundaries = op->boundaries};
    if (op->direction)
        make_ladder(b, op, m);
    if (op->kind == EXEC_ADD_REQUANTIZE)
        make_shortcut(b, op, m);
    if (op->wide)
        make_wide(b, op, m, multiplier, offset);
}
