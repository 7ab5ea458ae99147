/* From a table of operations to a network that is ready to run: weights in the layout of the instruction set,
 * factors padded to whole vectors, in one block of memory. The same code measures the block. */
#include "exec_plan.h"
#include <string.h>

#define BATCH_BYTES (1 << 19) /* of activations that are worked on together: part of a second-level cache */
#define MOST_IMAGES 16

/* Hands out pieces of a block, or counts them where there is none. */
typedef struct {
    uint8_t *base;
    size_t used;
} block;

static void *take(block *b, size_t bytes)
{
    void *piece = b->base ? b->base + b->used : NULL;
    b->used += (bytes + 63) / 64 * 64;
    return piece;
}

static int depthwise(const exec_op *op, int channels)
{
    return op->kind == EXEC_CONVOLUTION && op->groups > 1 && op->groups == channels &&
           op->channels == channels;
}

/* Level 0 as the kernels read it, the greatest byte that they read, and whether they must read something else
 * than the codes: 0 no, 1 a map of them, -1 the levels span more than 8 bits. */
static int levels_read(const exec_op *op, int *zero, int *top)
{
    int low = 0, high = 0, even = 1;
    for (int i = 0; i < op->input_count; i++) {
        int level = op->input_levels[i];
        low = level < low ? level : low;
        high = level > high ? level : high;
        even &= level - op->input_levels[0] == i;
    }
    *zero = -low;
    *top = high - low;
    if (even && op->input_levels[0] <= 0 && op->input_levels[0] >= -255) {
        *zero = -op->input_levels[0];
        *top = *zero > op->input_count - 1 ? *zero : op->input_count - 1;
        return 0;
    }
    return high - low > 255 ? -1 : 1;
}

static const uint8_t *make_map(block *b, const exec_op *op, int zero)
{
    uint8_t *map = take(b, 256);
    if (map) {
        memset(map, zero, 256);
        for (int i = 0; i < op->input_count && i < 256; i++)
            map[i] = (uint8_t)(op->input_levels[i] + zero);
    }
    return map;
}

static void make_depthwise(block *b, const exec_op *op, exec_made *m)
{
    int taps = op->kernel_h * op->kernel_w, pitch = int_up(op->channels, INT_BLOCK);
    int_codes from = {op->stream, op->bits, op->channels, 0};
    m->form = AS_DEPTHWISE;
    m->levels = take(b, (size_t)(taps * pitch) * sizeof *m->levels);
    m->start = take(b, sizeof *m->start);
    int32_t *start = take(b, (size_t)pitch * sizeof *start);
    if (!b->base)
        return;
    m->start[0] = start;
    memset(start, 0, (size_t)pitch * sizeof *start);
    memset(m->levels, 0, (size_t)(taps * pitch) * sizeof *m->levels);
    for (int tap = 0; tap < taps; tap++)
        for (int c = 0; c < op->channels; c++) {
            int level = op->levels[int_code(&from, tap, c)];
            m->levels[tap * pitch + c] = (int16_t)level;
            start[c] -= m->zero * level;
        }
}

static void make_products(block *b, const int_isa *isa, const exec_op *op, int segments, int length, int top,
                          exec_made *m)
{
    int groups = op->kind == EXEC_LINEAR ? 1 : op->groups, each = op->channels / groups;
    int8_t levels[256] = {0};
    memcpy(levels, op->levels, (size_t)int_min(op->level_count, 256));
    m->weights = take(b, (size_t)groups * sizeof *m->weights);
    m->start = take(b, (size_t)groups * sizeof *m->start);
    for (int g = 0; g < groups; g++) {
        int_codes from = {op->stream, op->bits, op->channels, g * each};
        void *memory = take(b, int_weights_size(isa, segments, length, each, op->bits, levels));
        int32_t *start = take(b, (size_t)int_up(each, INT_MAX_COLUMNS) * sizeof *start);
        if (!b->base)
            continue;
        m->weights[g] = int_weights_init(memory, isa, &from, segments, length, each, op->bits, levels, top);
        m->start[g] = start;
        int_start(m->weights[g], m->zero, start);
    }
}

static void make_product(block *b, const int_isa *isa, const exec_op *op, int channels, exec_made *m)
{
    int_window window = {
        .kernel_h = op->kernel_h, .kernel_w = op->kernel_w, .channels = channels, .groups = op->groups};
    int segments = 1, length = channels, top, read = levels_read(op, &m->zero, &top);
    if (op->kind == EXEC_CONVOLUTION)
        int_conv_segments(&window, &segments, &length);
    m->offsets = take(b, (size_t)(op->kernel_h * op->kernel_w + 1) * sizeof *m->offsets);
    m->form = AS_LOOPS;
    if (read < 0 || segments > INT_MAX_TAPS)
        return;
    m->form = AS_PRODUCT;
    m->map = read ? make_map(b, op, m->zero) : NULL;
    if (depthwise(op, channels))
        make_depthwise(b, op, m);
    else
        make_products(b, isa, op, segments, length, top < 1 ? 1 : top, m);
}

/* Factors of all channels, padded with zeros to whole vectors. */
static float *spread(block *b, const float *from, int count, int channels)
{
    int padded = (channels / INT_MAX_COLUMNS + 2) * INT_MAX_COLUMNS; /* a group may begin anywhere */
    float *to = take(b, (size_t)padded * sizeof *to);
    if (to)
        for (int i = 0; i < padded; i++)
            to[i] = i < channels ? from[count == 1 ? 0 : i] : 0;
    return to;
}

static void make_ladder(block *b, const exec_op *op, exec_made *m)
{
    int8_t *direction = take(b, (size_t)op->channels);
    int32_t *rows = take(b, (size_t)op->channels * sizeof *rows);
    if (!b->base)
        return;
    int row = 0;
    for (int c = 0; c < op->channels; c++) {
        direction[c] = op->direction[op->factors == 1 ? 0 : c];
        rows[c] = row;
        row += op->factors > 1 && direction[c];
    }
    m->q.direction = direction;
    m->q.rows = rows;
    m->q.thresholds = op->thresholds;
    m->q.steps = op->top;
}

/* A line that wide channels are near: in steps of the code, value(acc) + wide_shortcut[k] is
 * acc * multiplier + offset + k * slope within `margin`, as float32 computes it. */
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

/* Factors of one wide channel, and how far float32 may be from its value: 1 where no line will do, so that
 * all its codes are in doubt. Every float32 operation and factor is off by 2^-24 of what it handles, together
 * less than 2^-21 of the largest; every float64 step of the expression by 2^-53. */
static float near_channel(const exec_op *op, const near_line *l, int column, int columns, float *multiplier,
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
    if (!(l->step > 0 && margin < 0.25 && magnitude(*multiplier) < 1e6))
        *multiplier = *offset = 0;
    return l->step > 0 && margin < 0.25 && magnitude(*multiplier) < 1e6 ? (float)margin : 1;
}

/* All channels wide: those of an addition of 8 bits. In others, wide channels are few and always in doubt. */
static void make_wide(block *b, const exec_op *op, exec_made *m, float *multiplier, float *offset)
{
    static const float one = 1, none = 0;
    int32_t *index = take(b, (size_t)op->channels * sizeof *index);
    float *margin = spread(b, &none, 1, op->channels);
    m->index = index;
    m->shortcut.margin = margin;
    if (!b->base)
        return;
    for (int c = 0; c < op->channels; c++)
        index[c] = op->wide[c] ? m->wide_columns++ : -1;
    near_line line = line_of(op);
    int all = m->wide_columns == op->channels && !op->boundaries;
    for (int c = 0; c < op->channels; c++)
        if (index[c] >= 0)
            margin[c] =
                all ? near_channel(op, &line, index[c], m->wide_columns, multiplier + c, offset + c) : one;
    if (all) {
        m->shortcut.table = NULL;
        for (int i = 0; i < INT_BLOCK; i++)
            m->shortcut.slope[i] = (float)line.slope;
    }
}

static void make_shortcut(block *b, const exec_op *op, exec_made *m)
{
    float *table = take(b, (size_t)int_up(op->shortcut_count, INT_BLOCK) * sizeof *table);
    for (int k = 0; table && k < int_up(op->shortcut_count, INT_BLOCK); k++)
        table[k] = k < op->shortcut_count ? op->shortcut[k] : 0;
    m->shortcut.table = table;
    m->shortcut.count = op->shortcut_count;
}

static void make_requantization(block *b, const exec_op *op, exec_made *m)
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

/* The channels of a tensor. */
static int channels_of(const exec_network *net, int tensor)
{
    return tensor ? net->ops[tensor - 1].channels : net->channels;
}

static exec *build(const exec_network *net, const int_isa *isa, block *b)
{
    size_t count = (size_t)net->count;
    exec *e = take(b, sizeof *e);
    exec_made *made = take(b, count * sizeof *made);
    exec_tensor *tensors = take(b, (2 * count + 1) * sizeof *tensors);
    exec_step *steps = take(b, 2 * count * sizeof *steps);
    for (int i = 0; i < net->count; i++) {
        const exec_op *op = net->ops + i;
        exec_made m = {0};
        if (exec_is_product(op->kind))
            make_product(b, isa, op, channels_of(net, op->inputs[0]), &m);
        else if (op->kind == EXEC_REQUANTIZE || op->kind == EXEC_ADD_REQUANTIZE)
            make_requantization(b, op, &m);
        if (made)
            made[i] = m;
    }
    if (e)
        *e = (exec){.net = net, .isa = isa, .made = made, .tensors = tensors, .steps = steps};
    return e;
}

size_t exec_bytes(const exec_network *net, const int_isa *isa)
{
    block b = {0};
    build(net, isa, &b);
    return b.used;
}

/* Where the inputs of a product begin, from the first input of an output pixel. */
static void set_offsets(exec *e, const exec_step *s)
{
    const exec_op *op = e->net->ops + s->op;
    const exec_made *m = e->made + s->op;
    const exec_tensor *x = e->tensors + s->input;
    int by_tap = m->form == AS_DEPTHWISE || op->groups > 1;
    m->offsets[0] = 0;
    for (int i = 0; i < op->kernel_h * (by_tap ? op->kernel_w : 1); i++)
        m->offsets[i] = by_tap ? i / op->kernel_w * x->line + i % op->kernel_w * x->channels : i * x->line;
}

exec *exec_init(const exec_network *net, const int_isa *isa, void *memory)
{
    block b = {memory, 0};
    exec *e = build(net, isa, &b);
    exec_plan(e);
    for (int i = 0; i < e->step_count; i++)
        if (exec_is_product(e->steps[i].kind))
            set_offsets(e, e->steps + i);
    e->most = (int)(BATCH_BYTES / (e->image_bytes + 1));
    e->most = e->most < 1 ? 1 : e->most > MOST_IMAGES ? MOST_IMAGES : e->most;
    return e;
}
