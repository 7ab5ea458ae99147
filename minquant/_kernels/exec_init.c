/* From a table of operations to a network that is ready to run: weights in the layout of the instruction set
 * and factors in one block of memory. The same code measures the block. */
#include "exec_plan.h"
#include <string.h>

void *exec_take(exec_block *b, size_t bytes)
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

static const uint8_t *make_map(exec_block *b, const exec_op *op, int zero)
{
    uint8_t *map = exec_take(b, 256);
    if (map) {
        memset(map, zero, 256);
        for (int i = 0; i < op->input_count && i < 256; i++)
            map[i] = (uint8_t)(op->input_levels[i] + zero);
    }
    return map;
}

static void make_depthwise(exec_block *b, const exec_op *op, exec_made *m)
{
    int taps = op->kernel_h * op->kernel_w, pitch = int_up(op->channels, INT_BLOCK);
    int_codes from = {op->stream, op->bits, op->channels, 0};
    m->form = AS_DEPTHWISE;
    m->levels = exec_take(b, (size_t)(taps * pitch) * sizeof *m->levels);
    m->start = exec_take(b, sizeof *m->start);
    int32_t *start = exec_take(b, (size_t)pitch * sizeof *start);
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

static void make_products(exec_block *b, const int_isa *isa, const exec_op *op, int_codes codes, int segments,
                          int length, int top, exec_made *m)
{
    int groups = op->kind == EXEC_LINEAR ? 1 : op->groups, each = codes.pitch / groups;
    int8_t levels[256] = {0};
    memcpy(levels, op->levels, (size_t)int_min(op->level_count, 256));
    m->weights = exec_take(b, (size_t)groups * sizeof *m->weights);
    m->start = exec_take(b, (size_t)groups * sizeof *m->start);
    for (int g = 0; g < groups; g++, codes.first += each) {
        void *memory = exec_take(b, int_weights_size(isa, segments, length, each, op->bits, levels));
        int32_t *start = exec_take(b, (size_t)int_up(each, INT_MAX_COLUMNS) * sizeof *start);
        if (!b->base)
            continue;
        m->weights[g] = int_weights_init(memory, isa, &codes, segments, length, each, op->bits, levels, top);
        m->start[g] = start;
        int_start(m->weights[g], m->zero, start);
    }
}

/* Whether sums of operation i have one reader, which makes codes of them by a line or boundaries. */
static int ends_plainly(const exec_network *net, int i)
{
    int readers = 0, plain = 0;
    for (int j = i + 1; j < net->count; j++)
        if (net->ops[j].inputs[0] == i + 1) {
            readers++;
            plain = net->ops[j].kind == EXEC_REQUANTIZE && !net->ops[j].direction;
        }
    return readers == 1 && plain;
}

static int code_of_0(const exec_op *op)
{
    for (int code = 0; code < op->level_count; code++)
        if (op->levels[code] == 0)
            return code;
    return -1;
}

/* Pixels side by side that one row of a convolution's product computes. Few output channels leave columns of
 * the panel empty: those of the next pixel fit there, with weights `step` inputs further on. That is for
 * nothing as long as a segment fills no more groups of inputs than before. */
static int pixels_of_row(const exec_network *net, int i, const int_isa *isa, int length, int step)
{
    const exec_op *op = net->ops + i;
    int pixels = 1;
    if (op->kind != EXEC_CONVOLUTION || op->groups > 1 || !ends_plainly(net, i) || code_of_0(op) < 0)
        return 1;
    for (int n = 2; n * op->channels <= isa->narrow; n++)
        if (op->width % n == 0 && length + (n - 1) * step <= int_up(length, isa->group))
            pixels = n;
    return pixels;
}

/* The weights of so many pixels side by side, and of longer segments. */
static int_codes spread_codes(exec_block *b, const exec_op *op, int length, int step, int pixels)
{
    int_codes from = {op->stream, op->bits, op->channels, 0};
    int columns = pixels * op->channels, reach = length + (pixels - 1) * step;
    uint8_t *codes = exec_take(b, (size_t)(op->kernel_h * reach * columns));
    if (codes)
        memset(codes, code_of_0(op), (size_t)(op->kernel_h * reach * columns));
    for (int k = 0; codes && k < op->kernel_h * length; k++)
        for (int n = 0; n < columns; n++) {
            int row = k / length * reach + k % length + n / op->channels * step;
            codes[row * columns + n] = (uint8_t)int_code(&from, k, n % op->channels);
        }
    return (int_codes){codes, 8, columns, 0};
}

static void make_product(exec_block *b, const exec_network *net, int i, const int_isa *isa, int channels,
                         exec_made *m)
{
    const exec_op *op = net->ops + i;
    int_window window = {
        .kernel_h = op->kernel_h, .kernel_w = op->kernel_w, .channels = channels, .groups = op->groups};
    int segments = 1, length = channels, top, read = levels_read(op, &m->zero, &top);
    if (op->kind == EXEC_CONVOLUTION)
        int_conv_segments(&window, &segments, &length);
    m->offsets = exec_take(b, (size_t)(op->kernel_h * op->kernel_w + 1) * sizeof *m->offsets);
    m->form = AS_LOOPS;
    if (read < 0 || segments > INT_MAX_TAPS)
        return;
    m->form = AS_PRODUCT;
    m->map = read ? make_map(b, op, m->zero) : NULL;
    if (depthwise(op, channels)) {
        make_depthwise(b, op, m);
        return;
    }
    int_codes codes = {op->stream, op->bits, op->channels, 0};
    int step = op->stride * channels;
    m->pixels = pixels_of_row(net, i, isa, length, step);
    if (m->pixels > 1) {
        codes = spread_codes(b, op, length, step, m->pixels);
        length += (m->pixels - 1) * step;
    }
    make_products(b, isa, op, codes, segments, length, top < 1 ? 1 : top, m);
}

/* Tables that change no code are left out. */
static void make_tables(exec_block *b, const exec_op *op, exec_made *m)
{
    size_t count = (size_t)op->operand_count;
    m->tables = exec_take(b, count * sizeof *m->tables);
    for (size_t k = 0; m->tables && k < count; k++) {
        int moved = 0;
        for (int code = 0; op->table && code < 256; code++)
            moved |= op->table[256 * k + (size_t)code] != code;
        m->tables[k] = moved ? op->table + 256 * k : NULL;
    }
}

/* The channels of a tensor. */
static int channels_of(const exec_network *net, int tensor)
{
    return tensor ? net->ops[tensor - 1].channels : net->channels;
}

static exec *build(const exec_network *net, const int_isa *isa, exec_block *b)
{
    size_t count = (size_t)net->count;
    exec *e = exec_take(b, sizeof *e);
    exec_made *made = exec_take(b, count * sizeof *made);
    exec_tensor *tensors = exec_take(b, (2 * count + 1) * sizeof *tensors);
    exec_step *steps = exec_take(b, 2 * count * sizeof *steps);
    for (int i = 0; i < net->count; i++) {
        const exec_op *op = net->ops + i;
        exec_made m = {0};
        if (exec_is_product(op->kind))
            make_product(b, net, i, isa, channels_of(net, op->inputs[0]), &m);
        else if (op->kind == EXEC_REQUANTIZE || op->kind == EXEC_ADD_REQUANTIZE)
            exec_make_requantization(b, op, &m);
        else if (op->kind == EXEC_CONCAT)
            make_tables(b, op, &m);
        if (made)
            made[i] = m;
    }
    if (e)
        *e = (exec){.net = net, .isa = isa, .made = made, .tensors = tensors, .steps = steps};
    return e;
}

size_t exec_bytes(const exec_network *net, const int_isa *isa)
{
    exec_block b = {0};
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
    exec_block b = {memory, 0};
    exec *e = build(net, isa, &b);
    exec_plan(e);
    for (int i = 0; i < e->step_count; i++) {
        double time = exec_step_time(e, e->steps + i);
        e->time += time;
        if (exec_is_shared(time))
            e->saved += time / 2 - EXEC_SHARE_TIME;
        if (exec_is_product(e->steps[i].kind))
            set_offsets(e, e->steps + i);
    }
    return e;
}
