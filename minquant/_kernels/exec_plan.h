/* A prepared network: its steps, where its tensors lie, its weights and tables. Private to exec_*.c. */
#ifndef MINQUANT_EXEC_PLAN_H
#define MINQUANT_EXEC_PLAN_H
#include "exec.h"
#include "gemm.h"

#define SLACK 64 /* readable bytes behind a tensor: vectors end past its last byte, segments are padded */

/* All steps, those whose images come in small batches, those that take several batches together. */
typedef enum { WHOLE, EARLY, LATE } exec_stage;

/* Where a tensor lies. Codes that a convolution reads have a border that holds its level 0, so that a kernel
 * row is one run of bytes: the copy that int_conv makes is what the operation before writes. */
typedef struct {
    int height, width, channels, element; /* element: bytes of a value */
    int before, after, fill; /* pixels of border above and left, below and right; what they hold */
    int root;                /* the tensor whose memory it is: itself, unless flattened or concatenated */
    int offset, pitch;       /* the root's channel that it begins with; values from pixel to pixel */
    int made;                /* the step that gives it, or -1 */
    int first, last;         /* steps that first write and last read its memory; first < 0: never made */
    ptrdiff_t line, image;   /* bytes between lines, between images */
    exec_stage stage;        /* EARLY or LATE */
    ptrdiff_t place[2]; /* bytes before it, for every image: of one arena for all, of that of its stage */
} exec_tensor;

#define EXEC_MOST_IMAGES 32 /* that are taken through steps together */

enum { AS_PRODUCT, AS_DEPTHWISE, AS_LOOPS }; /* how a product is computed */

/* What is made of one operation when a network is prepared. */
typedef struct {
    int form, zero;         /* of a product; the uint8 that level 0 is read as */
    int pixels;             /* side by side in a row of a product */
    const uint8_t *map;     /* NULL, or what the kernels read for each code */
    const uint8_t **tables; /* concat: for each operand NULL, or its new codes */
    int_weights **weights;
    int32_t **start; /* one per group; depthwise: one for all */
    int16_t *levels; /* depthwise: taps x pitch */
    ptrdiff_t *offsets;
    int_requantization q;  /* requantize, add requantize: padded */
    int ladders;           /* channels with a ladder */
    const int32_t *index;  /* add requantize: column of values for each wide channel, else -1; NULL: none */
    int wide_columns;      /* of values */
    int_shortcut shortcut; /* add requantize */
} exec_made;

enum { COPY = EXEC_LOGITS + 1 }; /* the kind of a step that changes border or codes for one convolution */

/* Something computed for all images: the operation `op`, and what ends its sums. */
typedef struct {
    int kind, op, ending; /* ending: index of an operation, or -1: sums as they are */
    int input, shortcut, output;
} exec_step;

struct exec {
    const exec_network *net;
    const int_isa *isa;
    exec_made *made;
    exec_tensor *tensors; /* image, results, then copies */
    exec_step *steps;
    int tensor_count, step_count;
    int late;                 /* the first late step; 0: there are no early ones */
    ptrdiff_t image_bytes[3]; /* of the arena of each stage, for an image */
    int most[3];              /* images that are taken through the steps of a stage together */
    size_t scratch;           /* bytes per thread */
    double time, saved; /* nanoseconds of one image, about; what a second thread saves by sharing steps */
};

/* Hands out pieces of a block of memory, or counts them where there is none. */
typedef struct {
    uint8_t *base;
    size_t used;
} exec_block;
void *exec_take(exec_block *b, size_t bytes);

/* exec_factors.c: the fields of a requantization or addition. */
void exec_make_requantization(exec_block *b, const exec_op *op, exec_made *m);

/* exec_plan.c: steps, borders, places. Memory of e->tensors (2 count + 1) and e->steps (2 count) is given. */
void exec_plan(exec *e);

/* exec_places.c: lines, images, places, stages. */
void exec_place(exec *e);

/* exec_tasks.c: a step for some images in tasks that may run at the same time; those from `first` to before
 * `end`. */
typedef struct {
    const exec *e;
    const exec_call *call;
    uint8_t *arena; /* tensors of `images` images, from image `first` of the call */
    int first, images;
    uint8_t *late; /* NULL, or late tensors of `group` images, of which `before` come before `first` */
    int group, before;
} exec_batch;
size_t exec_step_scratch(const exec *e, const exec_step *s);
int exec_step_tasks(const exec_batch *b, const exec_step *s, int threads);
void exec_step_run(const exec_batch *b, const exec_step *s, int threads, int first, int end, void *scratch);
double exec_step_time(const exec *e, const exec_step *s); /* nanoseconds of one image, about */

/* exec_end.c: what ends sums. */
typedef struct {
    const exec_op *op; /* NULL: they stay */
    const exec_made *made;
    const int_isa *isa;
    void *out;
    const uint8_t *shortcut;
    ptrdiff_t out_row, out_line, out_image, shortcut_row, shortcut_line, shortcut_image; /* elements */
} exec_end;
double exec_value(const exec_op *op, double acc, int column, int columns); /* its float64 expression */
void exec_end_rows(const exec_end *end, const int_sums *sums);
int exec_kind_of_ending(const exec *e, const exec_step *s); /* -1: none */
exec_end exec_end_of(const exec_batch *b, const exec_step *s, int image);

#define EXEC_SHORT 8 /* bytes that a pooling moves at least */
/* exec_lines.c: lines of an image, of a step that is no product of gemm.h. */
void exec_run_lines(const exec_batch *b, const exec_step *s, int image, int first, int end, void *scratch);

static inline uint8_t *exec_at(const exec_batch *b, int tensor, int image)
{
    const exec_tensor *t = b->e->tensors + tensor, *root = b->e->tensors + t->root;
    ptrdiff_t inner = root->before * (root->line + root->channels * root->element) + t->offset;
    if (b->late && root->stage == LATE)
        return b->late + b->group * root->place[1] + (b->before + image) * root->image + inner;
    return b->arena + b->images * root->place[b->late != NULL] + image * root->image + inner;
}

/* Whether an operand of a concatenation lies among its channels, and need not be copied there. */
static inline int exec_is_within(const exec *e, int operand, int concat)
{
    return e->tensors[operand].root == concat;
}

/* Whether a step takes long enough, in nanoseconds, for threads to share it: they wait for each other, and
 * half of what each reads lies in the cache of another. */
#define EXEC_SHARE_TIME 10e3
static inline int exec_is_shared(double time) { return time / 2 > EXEC_SHARE_TIME; }

static inline int exec_is_product(int kind) { return kind == EXEC_CONVOLUTION || kind == EXEC_LINEAR; }
static inline int exec_gives_sums(int kind) { return exec_is_product(kind) || kind == EXEC_SUM_POOL; }
static inline int exec_ends_sums(int kind) { return kind >= EXEC_REQUANTIZE && kind <= EXEC_LOGITS; }

#endif
