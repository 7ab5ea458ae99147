/* Runs the steps of a network: which images together, which threads, one step after another.
 *
 * Where there is an image for every thread, each takes whole images through all steps and waits for nobody.
 * Otherwise the threads share the tasks of each step; between steps they wait in a loop, because a wait of
 * the operating system takes longer than most steps. */
#include "exec_plan.h"
#include <string.h>
#ifdef _OPENMP
#include <omp.h>
#include <sched.h>
#else
static int omp_get_thread_num(void) { return 0; }
static int omp_get_num_threads(void) { return 1; }
static void sched_yield(void) {}
#endif

#define WAKE_TIME 80e3 /* nanoseconds: what another thread must save before it is woken */
#define SPINS 20       /* looks at the barrier, 1 us, before the processor is offered to others */

/* Threads that work on the same images. */
typedef struct {
    int threads, arrived, phase, next; /* next: task of the step */
} team;

static void wait_for_all(team *t)
{
    int phase = __atomic_load_n(&t->phase, __ATOMIC_ACQUIRE);
    if (__atomic_add_fetch(&t->arrived, 1, __ATOMIC_ACQ_REL) == t->threads) {
        t->arrived = 0;
        t->next = 0;
        __atomic_store_n(&t->phase, phase + 1, __ATOMIC_RELEASE);
        return;
    }
    for (unsigned spins = 1; __atomic_load_n(&t->phase, __ATOMIC_ACQUIRE) == phase; spins++) {
#if defined(__x86_64__) || defined(__i386__)
        __builtin_ia32_pause();
#endif
        if (spins % SPINS == 0)
            sched_yield();
    }
}

/* What an operation gives, of the images of a batch, from where it lies into the caller's array. */
static void tap_tensor(const exec_batch *b, int i, uint8_t *to)
{
    const exec_tensor *t = b->e->tensors + i + 1;
    int pieces = t->pitch == t->channels ? 1 : t->width; /* of a line: pixels may lie apart */
    size_t piece = (size_t)(t->width / pieces) * (size_t)t->channels * (size_t)t->element;
    to += (size_t)b->first * (size_t)t->height * (size_t)pieces * piece;
    for (int image = 0; image < b->images; image++)
        for (int y = 0; y < t->height; y++) {
            const uint8_t *from = exec_at(b, i + 1, image) + y * t->line;
            for (int x = 0; x < pieces; x++, from += t->pitch, to += piece)
                memcpy(to, from, piece);
        }
}

static void run_alone(const exec_batch *b, const exec_step *s, void *scratch)
{
    exec_step_run(b, s, 1, 0, exec_step_tasks(b, s, 1), scratch);
}

/* After a step: the results that were asked for, and sums that were not kept, computed once more. */
static void tap_step(const exec_batch *b, int step, void *scratch)
{
    const exec *e = b->e;
    const exec_step *s = e->steps + step;
    void *const *taps = b->call->taps;
    for (int i = 0; i < e->net->count; i++) {
        const exec_tensor *t = e->tensors + i + 1, *root = e->tensors + t->root;
        int made = e->net->ops[i].kind == EXEC_FLATTEN ? root->made : t->made;
        if (taps[i] && made == step && t->element < 8)
            tap_tensor(b, i, taps[i]);
    }
    if (s->kind != COPY && s->ending >= 0 && s->op != s->ending && taps[s->op]) {
        exec_step sums = *s;
        sums.ending = sums.output = sums.shortcut = -1;
        run_alone(b, &sums, scratch);
    }
}

/* The steps from `first` to before `end`. */
static void run_steps(const exec_batch *b, team *t, int thread, uint8_t *scratch, int first, int end)
{
    const exec *e = b->e;
    uint64_t before = 0;
    for (int i = first, alone = 0; i < end; i++) {
        const exec_step *s = e->steps + i;
        int shared = t->threads > 1 && exec_is_shared(exec_step_time(e, s) * b->images);
        if (b->call->clock && !thread)
            before = b->call->clock();
        if (shared) {
            if (alone)
                wait_for_all(t);
            int tasks = exec_step_tasks(b, s, t->threads), task;
            while ((task = __atomic_fetch_add(&t->next, 1, __ATOMIC_RELAXED)) < tasks)
                exec_step_run(b, s, t->threads, task, task + 1, scratch);
            wait_for_all(t);
        } else if (!thread)
            run_alone(b, s, scratch);
        alone = !shared;
        if (b->call->clock && b->call->ticks && !thread)
            b->call->ticks[s->op] += b->call->clock() - before;
        if (b->call->taps) {
            alone = 1; /* for every thread, so that all wait before the next shared step */
            if (!thread)
                tap_step(b, i, scratch);
        }
    }
    if (t->threads > 1)
        wait_for_all(t);
}

/* How a call is divided: images taken through the late steps together, and of them through the early ones, or
 * 0 where all steps take as many; threads; whether each has its own images. */
typedef struct {
    int images, early, threads, apart;
} division;

static division divide(const exec *e, int images, int threads)
{
    double saved = images < threads ? e->saved * images : e->time * images / 2;
    threads = saved < WAKE_TIME ? 1 : int_team(threads, threads);
    division d = {.threads = threads, .apart = threads > 1 && images >= threads};
    int each = d.apart ? (images + threads - 1) / threads : images;
    d.images = int_min(each, e->most[WHOLE]);
    if (e->late && each > d.images) {
        d.early = e->most[EARLY];
        d.images = int_min(each, e->most[LATE]);
    }
    return d;
}

/* Bytes up to a whole number of cache lines. */
static size_t whole(size_t bytes) { return (bytes + 63) / 64 * 64; }

static size_t stage_bytes(const exec *e, exec_stage stage, int images)
{
    return whole((size_t)images * (size_t)e->image_bytes[stage] + SLACK);
}

static size_t batch_bytes(const exec *e, int images, int early)
{
    return early ? stage_bytes(e, EARLY, early) + stage_bytes(e, LATE, images)
                 : stage_bytes(e, WHOLE, images);
}

/* Enough for every way in which `divide` may divide such a call. */
size_t exec_arena_bytes(const exec *e, int images, int threads)
{
    int sets = threads < images ? threads : images;
    size_t bytes = batch_bytes(e, int_min(images, e->most[WHOLE]), 0), staged;
    if (e->late && images > e->most[WHOLE]) {
        staged = batch_bytes(e, int_min(images, e->most[LATE]), e->most[EARLY]);
        bytes = staged > bytes ? staged : bytes;
    }
    return bytes * (size_t)(sets > 1 ? sets : 1) + e->scratch * (size_t)threads + 64;
}

/* The images from image `first` of the call on, through all steps. */
static void run_images(const exec *e, const exec_call *call, division d, int first, uint8_t *arena, team *t,
                       int thread, uint8_t *scratch)
{
    exec_batch b = {.e = e, .call = call, .arena = arena, .first = first};
    b.images = b.group = int_min(d.images, call->images - first);
    if (!d.early) {
        run_steps(&b, t, thread, scratch, 0, e->step_count);
        return;
    }
    b.late = arena + stage_bytes(e, EARLY, d.early);
    for (exec_batch part = b; part.before < b.group; part.before += d.early) {
        part.first = first + part.before;
        part.images = int_min(d.early, b.group - part.before);
        run_steps(&part, t, thread, scratch, 0, e->late);
    }
    run_steps(&b, t, thread, scratch, e->late, e->step_count);
}

static void run_apart(const exec *e, const exec_call *call, division d)
{
    int batches = (call->images + d.images - 1) / d.images;
    size_t each = batch_bytes(e, d.images, d.early) + e->scratch;
#pragma omp parallel for num_threads(d.threads) schedule(dynamic)
    for (int i = 0; i < batches; i++) {
        team alone = {.threads = 1};
        uint8_t *arena = (uint8_t *)call->arena + (size_t)omp_get_thread_num() * each;
        run_images(e, call, d, i * d.images, arena, &alone, 0, arena + each - e->scratch);
    }
}

/* One thread's part: its share of the tasks of every step. */
static void take_part(const exec *e, const exec_call *call, division d, team *all, int thread)
{
    uint8_t *scratch = (uint8_t *)call->arena + batch_bytes(e, d.images, d.early);
    for (int first = 0; first < call->images; first += d.images)
        run_images(e, call, d, first, call->arena, all, thread, scratch + (size_t)thread * e->scratch);
}

static void run_together(const exec *e, const exec_call *call, division d)
{
    team all = {.threads = 1};
    if (d.threads == 1) { /* OpenMP's team of one takes longer than a small layer */
        take_part(e, call, d, &all, 0);
        return;
    }
#pragma omp parallel num_threads(d.threads)
    {
#pragma omp single
        all.threads = omp_get_num_threads();
        take_part(e, call, d, &all, omp_get_thread_num());
    }
}

void exec_run(const exec *e, const exec_call *call)
{
    division d = divide(e, call->images, call->threads);
    d.apart &= !call->ticks;
    if (d.apart)
        run_apart(e, call, d);
    else
        run_together(e, call, d);
}
