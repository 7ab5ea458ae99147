/* Where tensors lie in the arena, and how many images are taken through the steps together.
 *
 * More images share what is read of the weights, as long as their activations stay in the cache. Late in a
 * network activations are small and weights many: where more images come than fit at the beginning, those of
 * several batches wait there and go through the late steps together. */
#include "exec_plan.h"

#define BATCH_BYTES (1 << 20) /* of activations that are worked on together: part of a second-level cache */
#define LATE_BYTES (BATCH_BYTES / 8) /* of an image, in every late step */
#define MOST_EARLY 16

static void lay_out(exec_tensor *t)
{
    t->line = (ptrdiff_t)(t->before + t->width + t->after) * t->channels * t->element;
    ptrdiff_t bytes = (t->before + t->height + t->after) * t->line + SLACK;
    t->image = (bytes + 63) / 64 * 64;
}

static void lay_out_all(exec *e)
{
    for (int i = 0; i < e->tensor_count; i++)
        lay_out(e->tensors + i);
    for (int i = 0; i < e->net->count; i++) { /* the same memory in another shape, or part of it */
        exec_tensor *t = e->tensors + i + 1;
        t->image = e->tensors[t->root].image;
        if (e->net->ops[i].kind != EXEC_FLATTEN)
            t->line = e->tensors[t->root].line;
    }
}

/* Whether tensor i has memory of its own in the arena. */
static int is_placed(const exec *e, int i)
{
    const exec_tensor *t = e->tensors + i;
    return i > 0 && t->first >= 0 && t->root == i && t->element < 8;
}

static int live_together(const exec_tensor *a, const exec_tensor *b)
{
    return a->first <= b->last && b->first <= a->last;
}

/* The first gap for tensor i among those before it that live at the same time; `stage`: of one stage alone.
 */
static ptrdiff_t first_gap(const exec *e, int i, exec_stage stage)
{
    const exec_tensor *t = e->tensors + i;
    ptrdiff_t place = 0;
    for (int moved = 1; moved;) {
        moved = 0;
        for (int j = 1; j < i; j++) {
            const exec_tensor *other = e->tensors + j;
            if (!is_placed(e, j) || !live_together(t, other) || (stage != WHOLE && other->stage != stage))
                continue;
            ptrdiff_t at = other->place[stage != WHOLE];
            if (at < place + t->image && place < at + other->image) {
                place = at + other->image;
                moved = 1;
            }
        }
    }
    return place;
}

static void place_tensors(exec *e, exec_stage stage)
{
    e->image_bytes[stage] = 0;
    for (int i = 1; i < e->tensor_count; i++) {
        exec_tensor *t = e->tensors + i;
        if (!is_placed(e, i) || (stage != WHOLE && t->stage != stage))
            continue;
        ptrdiff_t place = first_gap(e, i, stage), end = place + t->image;
        t->place[stage != WHOLE] = place;
        if (end > e->image_bytes[stage])
            e->image_bytes[stage] = end;
    }
}

/* The first step from which on activations are small; 0 where they are from the beginning. */
static int first_late_step(const exec *e)
{
    for (int step = e->step_count; step-- > 0;) {
        ptrdiff_t bytes = 0;
        for (int i = 1; i < e->tensor_count; i++) {
            const exec_tensor *t = e->tensors + i;
            if (is_placed(e, i) && t->first <= step && step <= t->last)
                bytes += t->image;
        }
        if (bytes > LATE_BYTES)
            return step + 1;
    }
    return 0;
}

static int images_of(ptrdiff_t bytes, int most)
{
    ptrdiff_t images = BATCH_BYTES / (bytes + 1);
    return images < 1 ? 1 : images > most ? most : (int)images;
}

void exec_place(exec *e)
{
    lay_out_all(e);
    e->late = first_late_step(e);
    for (int i = 1; i < e->tensor_count; i++) /* what an early step writes and a late one reads is late */
        e->tensors[i].stage = e->tensors[e->tensors[i].root].last >= e->late ? LATE : EARLY;
    for (exec_stage stage = WHOLE; stage <= LATE; stage++)
        place_tensors(e, stage);
    e->most[WHOLE] = images_of(e->image_bytes[WHOLE], MOST_EARLY);
    e->most[EARLY] = images_of(e->image_bytes[EARLY], MOST_EARLY);
    e->most[LATE] = images_of(e->image_bytes[LATE], EXEC_MOST_IMAGES);
}
