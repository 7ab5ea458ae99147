/* Which operations are computed together, in which order, with which borders. */
#include "exec_plan.h"

static int max(int a, int b) { return a > b ? a : b; }

/* Operations that read a tensor, flattened or not. */
static int readers(const exec_network *net, int tensor)
{
    int count = 0;
    for (int i = 0; i < net->count; i++) {
        const exec_op *op = net->ops + i;
        count += op->inputs[0] == tensor || (op->kind == EXEC_ADD_REQUANTIZE && op->inputs[1] == tensor);
        for (int k = 1; k < op->operand_count; k++)
            count += op->operands[k] == tensor;
    }
    return count;
}

/* Whether what makes operand k of a concatenation can write it among the channels there: codes of sums, whose
 * rows may lie apart, and that nobody else reads. */
static int fits_within(const exec *e, int concat, int k)
{
    const exec_network *net = e->net;
    int operand = net->ops[concat].operands[k];
    const exec_op *maker = net->ops + operand - 1;
    if (e->made[concat].tables[k] || !exec_ends_sums(maker->kind) || readers(net, operand) > 1)
        return 0;
    const exec_made *sums = e->made + maker->inputs[0] - 1;
    return sums->form != AS_DEPTHWISE && sums->pixels <= 1;
}

static void place_operands(exec *e, int concat)
{
    const exec_op *op = e->net->ops + concat;
    int offset = 0;
    for (int k = 0; k < op->operand_count; k++) {
        exec_tensor *x = e->tensors + op->operands[k];
        if (fits_within(e, concat, k)) {
            x->root = concat + 1;
            x->offset = offset;
            x->pitch = op->channels;
        }
        offset += x->channels;
    }
}

static void describe_tensors(exec *e)
{
    const exec_network *net = e->net;
    e->tensors[0] = (exec_tensor){
        .height = net->height, .width = net->width, .channels = net->channels, .element = 1, .first = -1};
    for (int i = 0; i < net->count; i++) {
        const exec_op *op = net->ops + i;
        int element = exec_gives_sums(op->kind) ? 4 : op->kind == EXEC_LOGITS ? 8 : 1;
        int root = op->kind == EXEC_FLATTEN ? e->tensors[op->inputs[0]].root : i + 1;
        e->tensors[i + 1] = (exec_tensor){.height = op->height,
                                          .width = op->width,
                                          .channels = op->channels,
                                          .element = element,
                                          .fill = -1,
                                          .root = root,
                                          .pitch = op->channels,
                                          .made = -1,
                                          .first = -1,
                                          .last = -1};
        if (op->kind == EXEC_CONCAT)
            place_operands(e, i);
    }
    e->tensor_count = net->count + 1;
}

static void mark(exec_tensor *tensors, int tensor, int step)
{
    if (tensor >= 0)
        tensors[tensors[tensor].root].last = step;
}

static exec_step *add_step(exec *e, int kind, int op, int ending, int input, int output)
{
    exec_step *s = e->steps + e->step_count;
    *s = (exec_step){kind, op, ending, input, -1, output};
    if (ending >= 0 && e->net->ops[ending].kind == EXEC_ADD_REQUANTIZE)
        s->shortcut = e->net->ops[ending].inputs[1];
    mark(e->tensors, input, e->step_count);
    mark(e->tensors, s->shortcut, e->step_count);
    mark(e->tensors, output, e->step_count);
    exec_tensor *root = e->tensors + e->tensors[output].root;
    if (root->first < 0)
        root->first = e->step_count;
    e->tensors[output].made = e->step_count++;
    return s;
}

/* Pixels below and to the right of an input that a convolution reads. */
static int reach_after(const exec_op *op, const exec_tensor *x)
{
    int down = (op->height - 1) * op->stride + op->kernel_h - op->padding - x->height;
    int right = (op->width - 1) * op->stride + op->kernel_w - op->padding - x->width;
    return max(0, max(down, right));
}

/* The tensor that a convolution or linear operation reads: its input with a border that fits, or a copy. */
static int readable(exec *e, int i)
{
    const exec_op *op = e->net->ops + i;
    const exec_made *made = e->made + i;
    int input = op->inputs[0];
    exec_tensor *x = e->tensors + input, *from = x;
    if (made->form == AS_LOOPS || (!made->map && !op->padding))
        return input;
    int flattened = 0;
    for (int t = 1; t <= e->net->count; t++)
        flattened |= e->net->ops[t - 1].kind == EXEC_FLATTEN && e->tensors[t].root == x->root;
    if (made->map || flattened || (x->before && x->fill != made->zero)) {
        int copy = e->tensor_count++;
        x = e->tensors + copy;
        *x = (exec_tensor){.height = from->height,
                           .width = from->width,
                           .channels = from->channels,
                           .element = 1,
                           .root = copy,
                           .pitch = from->channels,
                           .first = -1};
        add_step(e, COPY, i, -1, input, copy);
        input = copy;
    }
    if (op->padding) {
        x->fill = made->zero;
        x->before = max(x->before, op->padding);
        x->after = max(x->after, reach_after(op, x));
    }
    return input;
}

/* One step after another; sums that only one operation reads end in the step that makes them. */
static void make_steps(exec *e)
{
    const exec_network *net = e->net;
    for (int i = 0; i < net->count; i++) {
        const exec_op *op = net->ops + i;
        int from = exec_ends_sums(op->kind) ? op->inputs[0] - 1 : i, kind = net->ops[from].kind;
        if (op->kind == EXEC_FLATTEN || (exec_gives_sums(op->kind) && readers(net, i + 1) == 1))
            continue;
        if (exec_ends_sums(op->kind) && readers(net, from + 1) > 1) {
            from = i;
            kind = op->kind;
        }
        int input = exec_is_product(kind) ? readable(e, from) : net->ops[from].inputs[0];
        for (int k = 0; k < op->operand_count; k++)
            mark(e->tensors, op->operands[k], e->step_count);
        add_step(e, kind, from, exec_ends_sums(op->kind) ? i : -1, input, i + 1);
    }
}

void exec_plan(exec *e)
{
    e->step_count = 0;
    describe_tensors(e);
    make_steps(e);
    exec_place(e);
    e->scratch = 0;
    for (int i = 0; i < e->step_count; i++) {
        size_t bytes = (exec_step_scratch(e, e->steps + i) + 63) / 64 * 64;
        e->scratch = bytes > e->scratch ? bytes : e->scratch;
    }
}
