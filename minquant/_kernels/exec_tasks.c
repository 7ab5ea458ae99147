/* Steps in tasks: some tiles of a product, or some lines of an image (exec_lines.c). */
#include "exec_plan.h"
#include <string.h>

#define LINE_BYTES (1 << 14) /* what lines of one task write, where threads share an image */

static void end_product(const int_product *p, const int_sums *sums) { exec_end_rows(p->context, sums); }

/* The product of one group of a convolution, or of a linear step. */
static int_product product_of(const exec_batch *b, const exec_step *s, const exec_end *end, int group)
{
    const exec *e = b->e;
    const exec_op *op = e->net->ops + s->op;
    const exec_made *m = e->made + s->op;
    const exec_tensor *x = e->tensors + s->input;
    int groups = s->kind == EXEC_LINEAR ? 1 : op->groups, pixels = m->pixels;
    int_product p = {.w = m->weights[group],
                     .a = exec_at(b, s->input, 0) + group * (x->channels / groups),
                     .row = (ptrdiff_t)pixels * op->stride * x->channels,
                     .line = op->stride * x->line,
                     .image = x->image,
                     .rows = op->height * op->width / pixels,
                     .run_rows = op->width / pixels,
                     .images = b->images,
                     .offsets = m->offsets,
                     .start = m->zero == m->weights[group]->centre ? NULL : m->start[group],
                     .first = group * (op->channels / groups),
                     .out = end->out,
                     .out_row = end->out_row,
                     .out_line = end->out_line,
                     .out_image = end->out_image};
    if (s->kind == EXEC_CONVOLUTION)
        p.a -= op->padding * (x->line + x->channels);
    if (end->op && end->op->kind == EXEC_REQUANTIZE && int_is_in_tile(e->isa, &end->made->q))
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
    if (s->output >= 0) {
        const exec_tensor *root = e->tensors + e->tensors[s->output].root;
        bordered |= root->before || root->after;
    }
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

static void set_up(const exec_batch *b, const exec_step *s, exec_end *end, int group, int_product *p)
{
    const exec *e = b->e;
    *end = exec_end_of(b, s, 0);
    end->out_row *= e->made[s->op].pixels;
    *p = product_of(b, s, end, group);
    if (s->kind == EXEC_LINEAR) { /* rows are images */
        p->row = p->image;
        p->images = 1;
        p->out_row = end->out_row = end->out_image;
        end->shortcut_row = end->shortcut_image;
        in_even_runs(p, end, b->images);
    } else if (lies_evenly(e, s))
        in_even_runs(p, end, p->rows);
    int_join_runs(p);
}

/* Tasks of a product: those of the first group, then of the next. */
static void product_tasks(const exec_batch *b, const exec_step *s, int threads, int first, int end,
                          void *scratch)
{
    exec_end ending;
    int_product p;
    set_up(b, s, &ending, 0, &p);
    int_split split = int_product_split(&p, threads);
    for (int i = first, group = 0; i < end; i++) {
        if (i / split.tasks != group) {
            group = i / split.tasks;
            set_up(b, s, &ending, group, &p);
        }
        int_product_task(&p, split, i % split.tasks, scratch);
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

/* Channels that a step gives one by one; those of a concatenation that lie in their place are there already.
 */
static int channels_made(const exec *e, const exec_step *s)
{
    const exec_op *op = e->net->ops + s->op;
    int channels = op->channels;
    for (int k = 0; k < op->operand_count; k++)
        if (exec_is_within(e, op->operands[k], s->output))
            channels -= e->tensors[op->operands[k]].channels;
    return channels;
}

/* Parts of an image's lines that tasks take. */
static int parts_of(const exec *e, const exec_step *s, int threads)
{
    const exec_op *op = e->net->ops + s->op;
    int bytes = op->height * op->width * op->channels;
    return threads == 1 ? 1 : int_min(lines_of(e, s), 1 + bytes / LINE_BYTES);
}

/* The border of an image: what lies above and left of its first line, between lines, and behind the last. */
static void fill_border(const exec_batch *b, int tensor, int image)
{
    const exec_tensor *t = b->e->tensors + tensor;
    ptrdiff_t left = (ptrdiff_t)t->before * t->channels, right = (ptrdiff_t)t->after * t->channels;
    ptrdiff_t gap = t->before * t->line + left;
    uint8_t *at = exec_at(b, tensor, image) - gap;
    for (int y = 0; y < t->height; y++, gap = right + left) {
        memset(at, t->fill, (size_t)gap);
        at += gap + (ptrdiff_t)t->width * t->channels;
    }
    memset(at, t->fill, (size_t)(right + t->after * t->line));
}

static int has_border(const exec *e, const exec_step *s)
{
    return s->output >= 0 && (e->tensors[s->output].before || e->tensors[s->output].after);
}

/* Tasks without those that fill borders. */
static int proper_tasks(const exec_batch *b, const exec_step *s, int threads)
{
    if (!channels_made(b->e, s))
        return 0;
    if (!is_product(b->e, s))
        return b->images * parts_of(b->e, s, threads);
    exec_end end;
    int_product p;
    set_up(b, s, &end, 0, &p);
    int tasks = int_product_split(&p, threads).tasks;
    return s->kind == EXEC_LINEAR ? tasks : tasks * b->e->net->ops[s->op].groups;
}

/* Logits that are not the network's last are computed for a tap only. */
static int is_wanted(const exec_batch *b, const exec_step *s)
{
    return exec_kind_of_ending(b->e, s) != EXEC_LOGITS || exec_end_of(b, s, 0).out;
}

int exec_step_tasks(const exec_batch *b, const exec_step *s, int threads)
{
    if (!is_wanted(b, s))
        return 0;
    return proper_tasks(b, s, threads) + (has_border(b->e, s) ? b->images : 0);
}

/* Lines of an image: part `part` of those of all images. */
static void run_lines(const exec_batch *b, const exec_step *s, int threads, int part, void *scratch)
{
    int parts = parts_of(b->e, s, threads), lines = lines_of(b->e, s), image = part / parts;
    part %= parts;
    exec_run_lines(b, s, image, lines * part / parts, lines * (part + 1) / parts, scratch);
}

void exec_step_run(const exec_batch *b, const exec_step *s, int threads, int first, int end, void *scratch)
{
    int borders = has_border(b->e, s) ? b->images : 0;
    for (; first < int_min(end, borders); first++)
        fill_border(b, s->output, first);
    if (is_product(b->e, s) && first < end)
        product_tasks(b, s, threads, first - borders, end - borders, scratch);
    else
        for (; first < end; first++)
            run_lines(b, s, threads, first - borders, scratch);
}

size_t exec_step_scratch(const exec *e, const exec_step *s)
{
    const exec_op *op = e->net->ops + s->op;
    if (is_product(e, s)) {
        int pixels = op->height * op->width, is_linear = s->kind == EXEC_LINEAR; /* whose rows are images */
        int_product p = {.w = e->made[s->op].weights[0],
                         .rows = is_linear ? EXEC_MOST_IMAGES : pixels,
                         .run_rows = is_linear ? EXEC_MOST_IMAGES : op->width,
                         .images = is_linear ? 1 : EXEC_MOST_IMAGES,
                         .ending = end_product};
        return int_product_scratch(&p);
    }
    if (s->kind == EXEC_MAX_POOL) {
        const exec_tensor *x = e->tensors + s->input;
        return 2 * (size_t)(x->width * x->channels + EXEC_SHORT);
    }
    if (exec_gives_sums(s->kind))
        return (size_t)(op->width * op->channels + INT_BLOCK) * sizeof(int32_t); /* whole vectors are read */
    return 0;
}

double exec_step_time(const exec *e, const exec_step *s)
{
    const double start = 200, each = 0.25; /* of a step; of a value that it gives */
    const exec_op *op = e->net->ops + s->op;
    double values = (double)op->height * op->width * channels_made(e, s), products = 0;
    if (s->kind == EXEC_LINEAR)
        products = values * e->tensors[s->input].channels;
    else if (s->kind == EXEC_CONVOLUTION)
        products = values * op->kernel_h * op->kernel_w * e->tensors[s->input].channels / op->groups;
    return start + values * each + products / e->isa->rate;
}
