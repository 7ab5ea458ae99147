/* Steps in tasks: what each kind of step computes for some lines of an image, or some tiles of a product. */
#include "exec_plan.h"
#include <string.h>

#define LINE_BYTES (1 << 14) /* what lines of one task write, where threads share an image */

static int min(int a, int b) { return a < b ? a : b; }

static int kind_of_ending(const exec *e, const exec_step *s)
{
    return s->ending < 0 ? -1 : (int)e->net->ops[s->ending].kind;
}

/* Where a step writes the results of an image, and what ends its sums; out is NULL where nobody wants them.
 */
static exec_end end_of(const exec_batch *b, const exec_step *s, int image)
{
    const exec *e = b->e;
    const exec_op *op = e->net->ops + (s->ending < 0 ? s->op : s->ending);
    ptrdiff_t size = (ptrdiff_t)op->height * op->width * op->channels, before = (b->first + image) * size;
    exec_end end = {.isa = e->isa, .out_row = op->channels, .out_line = (ptrdiff_t)op->width * op->channels};
    if (s->ending >= 0) {
        end.op = op;
        end.made = e->made + s->ending;
    }
    if (kind_of_ending(e, s) == EXEC_LOGITS) {
        void *tap = b->call->taps ? b->call->taps[s->ending] : NULL;
        double *to = s->ending == e->net->count - 1 ? b->call->logits : tap;
        end.out = to ? to + before : NULL;
    } else if (s->output < 0)
        end.out = (int32_t *)b->call->taps[s->op] + before;
    else {
        const exec_tensor *t = e->tensors + s->output;
        end.out = exec_at(b, s->output, image);
        end.out_line = t->line / t->element;
        end.out_row = t->channels;
    }
    if (s->shortcut >= 0) {
        const exec_tensor *t = e->tensors + s->shortcut;
        end.shortcut = exec_at(b, s->shortcut, image);
        end.shortcut_line = t->line;
        end.shortcut_row = t->channels;
    }
    return end;
}

/* ---- Products ---- */

static void end_product(const int_product *p, const int_sums *sums) { exec_end_rows(p->context, sums); }

/* The product of one image and group of a convolution, or of all images of a linear step. */
static int_product product_of(const exec_batch *b, const exec_step *s, const exec_end *end, int image,
                              int group)
{
    const exec *e = b->e;
    const exec_op *op = e->net->ops + s->op;
    const exec_made *m = e->made + s->op;
    const exec_tensor *x = e->tensors + s->input;
    int groups = s->kind == EXEC_LINEAR ? 1 : op->groups;
    int_product p = {.w = m->weights[group],
                     .a = exec_at(b, s->input, image) + group * (x->channels / groups),
                     .row = (ptrdiff_t)op->stride * x->channels,
                     .line = op->stride * x->line,
                     .rows = op->height * op->width,
                     .run_rows = op->width,
                     .offsets = m->offsets,
                     .start = m->start[group],
                     .first = group * (op->channels / groups),
                     .out = end->out,
                     .out_line = end->out_line,
                     .out_row = end->out_row};
    if (s->kind == EXEC_CONVOLUTION)
        p.a -= op->padding * (x->line + x->channels);
    if (end->op && exec_end_is_cheap(end->op, end->made))
        p.q = &end->made->q;
    else if (end->op) {
        p.ending = end_product;
        p.context = end;
    }
    return p;
}

/* Rows that lie evenly, in input, output and shortcut, need no runs of a line each. */
static int lies_evenly(const exec *e, const exec_step *s)
{
    const exec_op *op = e->net->ops + s->op;
    const exec_tensor *x = e->tensors + s->input;
    int bordered = x->before || x->after;
    bordered |= s->output >= 0 && (e->tensors[s->output].before || e->tensors[s->output].after);
    bordered |= s->shortcut >= 0 && (e->tensors[s->shortcut].before || e->tensors[s->shortcut].after);
    return !bordered && op->kernel_h * op->kernel_w * op->stride == 1;
}

static void in_even_runs(int_product *p, exec_end *end, int rows)
{
    p->rows = rows;
    p->run_rows = INT_RUN_ROWS;
    p->line = INT_RUN_ROWS * p->row;
    p->out_line = end->out_line = INT_RUN_ROWS * p->out_row;
    end->shortcut_line = INT_RUN_ROWS * end->shortcut_row;
}

/* Of image `image`, or of the whole batch for a linear step: rows are images. */
static int_product set_up(const exec_batch *b, const exec_step *s, exec_end *end, int image, int group)
{
    const exec *e = b->e;
    *end = end_of(b, s, image);
    int_product p = product_of(b, s, end, image, group);
    if (s->kind == EXEC_LINEAR) {
        p.row = e->tensors[s->input].image;
        if (s->output >= 0 && kind_of_ending(e, s) != EXEC_LOGITS)
            end->out_row = e->tensors[s->output].image / e->tensors[s->output].element;
        if (s->shortcut >= 0)
            end->shortcut_row = e->tensors[s->shortcut].image;
        p.out_row = end->out_row;
        in_even_runs(&p, end, b->images);
    } else if (lies_evenly(e, s))
        in_even_runs(&p, end, p.rows);
    return p;
}

static void product_task(const exec_batch *b, const exec_step *s, int threads, int i, void *scratch)
{
    const exec_op *op = b->e->net->ops + s->op;
    int groups = s->kind == EXEC_LINEAR ? 1 : op->groups;
    exec_end end;
    int_product p = set_up(b, s, &end, 0, 0);
    int_split split = int_product_split(&p, threads);
    int image = i / (split.tasks * groups), group = i / split.tasks % groups;
    if (image || group)
        p = set_up(b, s, &end, image, group);
    int_product_task(&p, split, i % split.tasks, scratch);
}

/* ---- Lines ---- */

static void depthwise_line(const exec_batch *b, const exec_step *s, int image, int y, void *scratch)
{
    const exec *e = b->e;
    const exec_op *op = e->net->ops + s->op;
    const exec_made *m = e->made + s->op;
    const exec_tensor *x = e->tensors + s->input;
    exec_end end = end_of(b, s, image);
    int_taps taps = {m->levels,    m->offsets,
                     m->start[0],  op->kernel_h * op->kernel_w,
                     op->channels, int_up(op->channels, INT_BLOCK)};
    const uint8_t *from = exec_at(b, s->input, image) - op->padding * (x->line + x->channels);
    int closes = kind_of_ending(e, s) == EXEC_REQUANTIZE;
    void *out = scratch;
    if (closes)
        out = (uint8_t *)end.out + y * end.out_line;
    (*e->isa->loops)
        ->depthwise(&taps, op->width, from + y * op->stride * x->line, (ptrdiff_t)op->stride * x->channels,
                    closes ? &end.made->q : NULL, out, 0);
    if (!closes)
        exec_end_rows(&end, &(int_sums){scratch, op->width, op->channels, op->channels, 0, y, 0});
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
    exec_end end = end_of(b, s, image);
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
        exec_end_rows(&end, &(int_sums){acc, 1, op->channels, op->channels, 0, y, col});
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
    exec_end end = end_of(b, s, image);
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
        exec_end_rows(&end, &(int_sums){sums, 1, x->channels, x->channels, 0, y, col});
    }
}

/* The largest of the window's lines, then of as many pixels side by side, then every stride-th pixel of it.
 */
static void max_pool_line(const exec_batch *b, const exec_step *s, int image, int y, uint8_t *largest)
{
    const exec_op *op = b->e->net->ops + s->op;
    const exec_tensor *x = b->e->tensors + s->input, *t = b->e->tensors + s->output;
    const int_loops *loops = *b->e->isa->loops;
    uint8_t *to = exec_at(b, s->output, image) + y * t->line;
    const uint8_t *line = exec_at(b, s->input, image) + y * op->stride * x->line;
    int channels = x->channels, places = ((op->width - 1) * op->stride + 1) * channels;
    uint8_t *windows = largest + (ptrdiff_t)x->width * channels;
    memcpy(largest, line, (size_t)(places + (op->kernel_w - 1) * channels));
    for (int i = 1; i < op->kernel_h; i++)
        loops->maximum(line + i * x->line, places + (op->kernel_w - 1) * channels, 0, largest);
    memcpy(windows, largest, (size_t)places);
    for (int i = 1; i < op->kernel_w; i++)
        loops->maximum(largest + (ptrdiff_t)i * channels, places, 0, windows);
    for (int col = 0; col < op->width; col++, to += channels, windows += op->stride * channels)
        for (int c = 0; c < channels; c++)
            to[c] = windows[c];
}

static void quantize_line(const exec_batch *b, const exec_step *s, int image, int y)
{
    const exec_op *op = b->e->net->ops + s->op;
    const exec_tensor *t = b->e->tensors + s->output;
    int channels = op->channels, count = op->width * channels;
    const uint8_t *from = b->call->pixels + ((ptrdiff_t)(b->first + image) * op->height + y) * count;
    uint8_t *to = exec_at(b, s->output, image) + y * t->line;
    for (int c = 0; c < channels; c++) {
        const uint8_t *table = op->table + 256 * c;
        for (int i = c; i < count; i += channels)
            to[i] = table[from[i]];
    }
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

static void copy_line(const exec_batch *b, const exec_step *s, int image, int y)
{
    const exec_tensor *x = b->e->tensors + s->input, *t = b->e->tensors + s->output;
    const uint8_t *from = exec_at(b, s->input, image) + y * x->line, *map = b->e->made[s->op].map;
    uint8_t *to = exec_at(b, s->output, image) + y * t->line;
    int count = x->width * x->channels;
    if (!map)
        memcpy(to, from, (size_t)count);
    for (int i = 0; map && i < count; i++)
        to[i] = map[from[i]];
}

/* Sums that more than one operation reads. */
static void end_line(const exec_batch *b, const exec_step *s, int image, int y)
{
    const exec_tensor *x = b->e->tensors + s->input;
    exec_end end = end_of(b, s, image);
    const int32_t *acc = (const int32_t *)(const void *)(exec_at(b, s->input, image) + y * x->line);
    if (end.out)
        exec_end_rows(&end, &(int_sums){acc, x->width, x->channels, x->channels, 0, y, 0});
}

static void run_line(const exec_batch *b, const exec_step *s, int image, int y, void *scratch)
{
    switch (s->kind) {
    case EXEC_CONVOLUTION:
    case EXEC_LINEAR:
        if (b->e->made[s->op].form == AS_DEPTHWISE)
            depthwise_line(b, s, image, y, scratch);
        else
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
    case COPY:
        copy_line(b, s, image, y);
        break;
    default:
        end_line(b, s, image, y);
    }
}

static int is_product(const exec *e, const exec_step *s)
{
    return exec_is_product(s->kind) && e->made[s->op].form == AS_PRODUCT;
}

static int lines_of(const exec *e, const exec_step *s)
{
    return s->output >= 0 ? e->tensors[s->output].height : e->net->ops[s->op].height;
}

/* Parts of an image's lines that tasks take. */
static int parts_of(const exec *e, const exec_step *s, int threads)
{
    const exec_op *op = e->net->ops + s->op;
    int bytes = op->height * op->width * op->channels;
    return threads == 1 ? 1 : min(lines_of(e, s), 1 + bytes / LINE_BYTES);
}

/* What the border of an image holds. */
static void fill_border(const exec_batch *b, int tensor, int image)
{
    const exec_tensor *t = b->e->tensors + tensor;
    ptrdiff_t left = (ptrdiff_t)t->before * t->channels, right = (ptrdiff_t)t->after * t->channels;
    uint8_t *line = exec_at(b, tensor, image) - left;
    memset(line - t->before * t->line, t->fill, (size_t)(t->before * t->line));
    for (int y = 0; y < t->height; y++, line += t->line) {
        memset(line, t->fill, (size_t)left);
        memset(line + t->line - right, t->fill, (size_t)right);
    }
    memset(line, t->fill, (size_t)(t->after * t->line));
}

static int has_border(const exec *e, const exec_step *s)
{
    return s->output >= 0 && (e->tensors[s->output].before || e->tensors[s->output].after);
}

/* Tasks without those that fill borders. */
static int proper_tasks(const exec_batch *b, const exec_step *s, int threads)
{
    if (!is_product(b->e, s))
        return b->images * parts_of(b->e, s, threads);
    exec_end end;
    int_product p = set_up(b, s, &end, 0, 0);
    int tasks = int_product_split(&p, threads).tasks;
    return s->kind == EXEC_LINEAR ? tasks : tasks * b->images * b->e->net->ops[s->op].groups;
}

/* Logits that are not the network's last are computed for a tap only. */
static int is_wanted(const exec_batch *b, const exec_step *s)
{
    return kind_of_ending(b->e, s) != EXEC_LOGITS || end_of(b, s, 0).out;
}

int exec_step_tasks(const exec_batch *b, const exec_step *s, int threads)
{
    if (!is_wanted(b, s))
        return 0;
    return proper_tasks(b, s, threads) + (has_border(b->e, s) ? b->images : 0);
}

void exec_step_task(const exec_batch *b, const exec_step *s, int threads, int i, void *scratch)
{
    int borders = has_border(b->e, s) ? b->images : 0;
    if (i < borders)
        fill_border(b, s->output, i);
    else if (is_product(b->e, s))
        product_task(b, s, threads, i - borders, scratch);
    else {
        int parts = parts_of(b->e, s, threads), part = (i - borders) % parts, lines = lines_of(b->e, s);
        for (int y = lines * part / parts; y < lines * (part + 1) / parts; y++)
            run_line(b, s, (i - borders) / parts, y, scratch);
    }
}

size_t exec_step_scratch(const exec *e, const exec_step *s)
{
    const exec_op *op = e->net->ops + s->op;
    if (is_product(e, s)) {
        size_t most = 0;
        int_product p = {.w = e->made[s->op].weights[0], .rows = INT32_MAX, .ending = end_product};
        most = int_product_scratch(&p);
        return most;
    }
    if (s->kind == EXEC_MAX_POOL) {
        const exec_tensor *x = e->tensors + s->input;
        return 2 * (size_t)(x->width * x->channels);
    }
    if (exec_gives_sums(s->kind))
        return (size_t)(op->width * op->channels + INT_BLOCK) * sizeof(int32_t); /* whole vectors are read */
    return 0;
}

double exec_step_work(const exec *e, const exec_step *s)
{
    const exec_op *op = e->net->ops + s->op;
    double outputs = (double)op->height * op->width * op->channels;
    if (!exec_is_product(s->kind))
        return outputs * 4;
    int channels = e->tensors[s->input].channels;
    return outputs *
           (s->kind == EXEC_LINEAR ? channels : op->kernel_h * op->kernel_w * channels / op->groups);
}
