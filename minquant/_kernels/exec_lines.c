/* What each kind of step, products aside, computes for one line of an image. */
#include "exec_plan.h"
#include <string.h>

#define FEW_LADDERS 32 /* channels for each ladder, from which rounding comes first */

/* Whether rounding gives all codes but those of so few channels that their sums may be computed twice. */
static int rounds(const exec_end *end)
{
    return end->op && end->op->kind == EXEC_REQUANTIZE && !end->op->boundaries &&
           FEW_LADDERS * end->made->ladders <= end->op->channels;
}

/* The sums of a channel once more, and their codes. */
static void climb_channel(const int_requantization *q, const int_taps *t, const int_lines *l, int c)
{
    for (int y = 0; y < l->lines; y++) {
        const uint8_t *x = l->x + y * l->x_line + c;
        uint8_t *to = (uint8_t *)l->out + y * l->out_line + c;
        for (int i = 0; i < l->pixels; i++, x += l->step, to += t->channels) {
            int32_t acc = t->start[c];
            for (int tap = 0; tap < t->count; tap++)
                acc += x[t->offsets[tap]] * t->levels[tap * t->pitch + c];
            int_climb(q, &acc, c, 1, to);
        }
    }
}

/* Lines of a depthwise convolution at once, whose sums the kernel rounds to codes. */
static void round_lines(const exec_end *ending, const int_taps *taps, const int_lines *lines)
{
    int_requantization q = ending->made->q;
    q.direction = NULL;
    (*ending->isa->loops)->depthwise(taps, lines, &q);
    for (int c = 0; ending->made->ladders && c < taps->channels; c++)
        if (ending->made->q.direction[c])
            climb_channel(&ending->made->q, taps, lines, c);
}

static void depthwise_lines(const exec_batch *b, const exec_step *s, int image, int first, int end,
                            void *scratch)
{
    const exec *e = b->e;
    const exec_op *op = e->net->ops + s->op;
    const exec_made *m = e->made + s->op;
    const exec_tensor *x = e->tensors + s->input;
    exec_end ending = exec_end_of(b, s, image);
    int_taps taps = {m->levels,    m->offsets,
                     m->start[0],  op->kernel_h * op->kernel_w,
                     op->channels, int_up(op->channels, INT_BLOCK)};
    int at_once = rounds(&ending);
    const uint8_t *from = exec_at(b, s->input, image) - op->padding * (x->line + x->channels);
    int_lines lines = {.pixels = op->width,
                       .lines = at_once ? end - first : 1,
                       .step = (ptrdiff_t)op->stride * x->channels,
                       .x_line = op->stride * x->line,
                       .out = at_once ? (uint8_t *)ending.out + first * ending.out_line : scratch,
                       .out_line = ending.out_line};
    for (; first < end; first += lines.lines) {
        lines.x = from + first * lines.x_line;
        if (at_once) {
            round_lines(&ending, &taps, &lines);
            continue;
        }
        (*e->isa->loops)->depthwise(&taps, &lines, NULL);
        exec_end_rows(&ending, &(int_sums){scratch, op->width, op->channels, op->channels, 0, 0, first, 0});
    }
}

/* A convolution or linear operation whose levels span more than 8 bits. */
static void loops_line(const exec_batch *b, const exec_step *s, int image, int y, void *scratch)
{
    const exec_op *op = b->e->net->ops + s->op;
    const exec_tensor *x = b->e->tensors + s->input;
    int conv = s->kind == EXEC_CONVOLUTION, groups = conv ? op->groups : 1, each = x->channels / groups;
    int kernel_h = conv ? op->kernel_h : 1, kernel_w = conv ? op->kernel_w : 1;
    int_codes codes = {op->stream, op->bits, op->channels, 0};
    const uint8_t *codes_read = exec_at(b, s->input, image);
    exec_end end = exec_end_of(b, s, image);
    int32_t *acc = scratch;
    for (int col = 0; col < op->width; col++) {
        memset(acc, 0, (size_t)op->channels * sizeof *acc);
        for (int tap = 0; tap < kernel_h * kernel_w; tap++) {
            int h = y * op->stride + tap / kernel_w - op->padding;
            int w = col * op->stride + tap % kernel_w - op->padding;
            if (h < 0 || h >= x->height || w < 0 || w >= x->width)
                continue;
            const uint8_t *pixel = codes_read + h * x->line + (ptrdiff_t)w * x->channels;
            for (int n = 0; n < op->channels; n++)
                for (int c = 0; c < each; c++) {
                    int level = op->input_levels[pixel[n / (op->channels / groups) * each + c]];
                    acc[n] += level * op->levels[int_code(&codes, tap * each + c, n)];
                }
        }
        exec_end_rows(&end, &(int_sums){acc, 1, op->channels, op->channels, 0, 0, y, col});
    }
}

static void sum_levels(const exec_op *op, const uint8_t *pixel, int channels, int32_t *sums)
{
    for (int c = 0; c < channels; c++)
        sums[c] += op->input_levels[pixel[c]];
}

static void sum_pool_line(const exec_batch *b, const exec_step *s, int image, int y, void *scratch)
{
    const exec_op *op = b->e->net->ops + s->op;
    const exec_tensor *x = b->e->tensors + s->input;
    exec_end end = exec_end_of(b, s, image);
    int32_t *sums = scratch;
    int even = 1;
    for (int i = 0; i < op->input_count; i++)
        even &= op->input_levels[i] - op->input_levels[0] == i;
    for (int col = 0; col < op->width; col++) {
        int lowest = even ? op->kernel_h * op->kernel_w * op->input_levels[0] : 0;
        for (int c = 0; c < x->channels; c++)
            sums[c] = lowest;
        for (int tap = 0; tap < op->kernel_h * op->kernel_w; tap++) {
            const uint8_t *pixel = exec_at(b, s->input, image) +
                                   (y * op->stride + tap / op->kernel_w) * x->line +
                                   (ptrdiff_t)(col * op->stride + tap % op->kernel_w) * x->channels;
            if (even)
                (*b->e->isa->loops)->add_pixel(pixel, x->channels, 0, sums);
            else
                sum_levels(op, pixel, x->channels, sums);
        }
        exec_end_rows(&end, &(int_sums){sums, 1, x->channels, x->channels, 0, 0, y, col});
    }
}

/* Every stride-th pixel of a line, side by side. Short ones are moved with what lies behind them, which the
 * next one overwrites: 8 bytes are one instruction. */
static void thin_out(const uint8_t *from, int pixels, int channels, int stride, uint8_t *to)
{
    for (int i = 0; i < pixels; i++, from += stride * channels, to += channels)
        if (channels <= EXEC_SHORT)
            memcpy(to, from, EXEC_SHORT);
        else
            memcpy(to, from, (size_t)channels);
}

/* The largest of the window's lines, then of as many pixels side by side, then every stride-th pixel of it.
 */
static void max_pool_line(const exec_batch *b, const exec_step *s, int image, int y, uint8_t *largest)
{
    const exec_op *op = b->e->net->ops + s->op;
    const exec_tensor *x = b->e->tensors + s->input, *t = b->e->tensors + s->output;
    const int_loops *loops = *b->e->isa->loops;
    const uint8_t *line = exec_at(b, s->input, image) + y * op->stride * x->line;
    int channels = x->channels, places = ((op->width - 1) * op->stride + 1) * channels;
    uint8_t *windows = largest + (ptrdiff_t)x->width * channels + EXEC_SHORT;
    memcpy(largest, line, (size_t)(places + (op->kernel_w - 1) * channels));
    for (int i = 1; i < op->kernel_h; i++)
        loops->maximum(line + i * x->line, places + (op->kernel_w - 1) * channels, 0, largest);
    memcpy(windows, largest, (size_t)places);
    for (int i = 1; i < op->kernel_w; i++)
        loops->maximum(largest + (ptrdiff_t)i * channels, places, 0, windows);
    thin_out(windows, op->width, channels, op->stride, largest);
    memcpy(exec_at(b, s->output, image) + y * t->line, largest, (size_t)(op->width * channels));
}

static void quantize_line(const exec_batch *b, const exec_step *s, int image, int y)
{
    const exec_op *op = b->e->net->ops + s->op;
    const exec_tensor *t = b->e->tensors + s->output;
    int channels = op->channels, count = op->width * channels;
    const uint8_t *from = b->call->pixels + ((ptrdiff_t)(b->first + image) * op->height + y) * count;
    uint8_t *to = exec_at(b, s->output, image) + y * t->line;
    (*b->e->isa->loops)->translate(op->table, channels, from, count, to);
}

static void pad_shortcut_line(const exec_batch *b, const exec_step *s, int image, int y)
{
    const exec_op *op = b->e->net->ops + s->op;
    const exec_tensor *x = b->e->tensors + s->input, *t = b->e->tensors + s->output;
    const uint8_t *from = exec_at(b, s->input, image) + y * op->stride * x->line;
    uint8_t *to = exec_at(b, s->output, image) + y * t->line;
    for (int col = 0; col < op->width; col++, from += op->stride * x->channels, to += t->channels) {
        memcpy(to, from, (size_t)x->channels);
        memset(to + x->channels, op->zero, (size_t)(t->channels - x->channels));
    }
}

/* Codes of a pixel, 16 at a time; the last 16 may overlap those before. A call for so few takes longer. */
static void copy_codes(const uint8_t *from, int count, uint8_t *to)
{
    if (count < 16) {
        memcpy(to, from, (size_t)count);
        return;
    }
    for (int c = 0; c < count - 16; c += 16)
        memcpy(to + c, from + c, 16);
    memcpy(to + count - 16, from + count - 16, 16);
}

/* For each operand its channels of every pixel, unless they have been written there. */
static void concat_line(const exec_batch *b, const exec_step *s, int image, int y)
{
    const exec_op *op = b->e->net->ops + s->op;
    const exec_tensor *t = b->e->tensors + s->output;
    uint8_t *first = exec_at(b, s->output, image) + y * t->line;
    for (int k = 0; k < op->operand_count; k++) {
        const exec_tensor *x = b->e->tensors + op->operands[k];
        const uint8_t *from = exec_at(b, op->operands[k], image) + y * x->line;
        const uint8_t *table = b->e->made[s->op].tables[k];
        uint8_t *to = first;
        int there = exec_is_within(b->e, op->operands[k], s->output);
        for (int col = 0; !there && col < op->width; col++, from += x->channels, to += t->channels)
            if (table)
                (*b->e->isa->loops)->translate(table, 1, from, x->channels, to);
            else
                copy_codes(from, x->channels, to);
        first += x->channels;
    }
}

static void copy_line(const exec_batch *b, const exec_step *s, int image, int y)
{
    const exec_tensor *x = b->e->tensors + s->input, *t = b->e->tensors + s->output;
    const uint8_t *from = exec_at(b, s->input, image) + y * x->line, *map = b->e->made[s->op].map;
    uint8_t *to = exec_at(b, s->output, image) + y * t->line;
    int count = x->width * x->channels;
    if (map)
        (*b->e->isa->loops)->translate(map, 1, from, count, to);
    else
        memcpy(to, from, (size_t)count);
}

/* Sums that more than one operation reads. */
static void end_line(const exec_batch *b, const exec_step *s, int image, int y)
{
    const exec_tensor *x = b->e->tensors + s->input;
    exec_end end = exec_end_of(b, s, image);
    const int32_t *acc = (const int32_t *)(const void *)(exec_at(b, s->input, image) + y * x->line);
    if (end.out)
        exec_end_rows(&end, &(int_sums){acc, x->width, x->channels, x->channels, 0, 0, y, 0});
}

static void run_line(const exec_batch *b, const exec_step *s, int image, int y, void *scratch)
{
    switch (s->kind) {
    case EXEC_CONVOLUTION:
    case EXEC_LINEAR:
        loops_line(b, s, image, y, scratch);
        break;
    case EXEC_SUM_POOL:
        sum_pool_line(b, s, image, y, scratch);
        break;
    case EXEC_MAX_POOL:
        max_pool_line(b, s, image, y, scratch);
        break;
    case EXEC_QUANTIZE_INPUT:
        quantize_line(b, s, image, y);
        break;
    case EXEC_PAD_SHORTCUT:
        pad_shortcut_line(b, s, image, y);
        break;
    case EXEC_CONCAT:
        concat_line(b, s, image, y);
        break;
    case COPY:
        copy_line(b, s, image, y);
        break;
    default:
        end_line(b, s, image, y);
    }
}

void exec_run_lines(const exec_batch *b, const exec_step *s, int image, int first, int end, void *scratch)
{
    if (s->kind == EXEC_CONVOLUTION && b->e->made[s->op].form == AS_DEPTHWISE)
        depthwise_lines(b, s, image, first, end, scratch);
    else
        for (; first < end; first++)
            run_line(b, s, image, first, scratch);
}
