/* Weight-only products: packs codes, shares panels among threads, decodes where rows share the work. */
#include "codebook.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define TASK_ROWS 96 /* x CODEBOOK_CHUNK floats: they stay in the second-level cache */

struct codebook_weights {
    const struct codebook_isa *isa;
    int k, columns, bits; /* bits: 1, 2, 4 or 8, as stored */
    float book[256];      /* with up to 4 bits 16 entries, of which the codebook is repeated */
    uint32_t *words;
    size_t panel_words;
};

static int panels_of(const codebook_weights *w)
{
    return (w->columns + w->isa->columns - 1) / w->isa->columns;
}

static int blocks(int k, int bits) { return (k + 32 / bits - 1) / (32 / bits); }

codebook_weights *codebook_weights_new(const int_isa *isa, const uint8_t *codes, int k, int columns, int bits,
                                       const float *book)
{
    codebook_weights *w = calloc(1, sizeof *w);
    if (!w)
        return NULL;
    w->isa = *isa->floats;
    w->k = k;
    w->columns = columns;
    w->bits = bits <= 2 ? bits : bits <= 4 ? 4 : 8;
    for (int i = 0; i < (w->bits <= 4 ? 16 : 256); i++)
        w->book[i] = book[i & ((1 << bits) - 1)];
    int width = w->isa->columns;
    w->panel_words = (size_t)blocks(k, w->bits) * (size_t)width;
    size_t bytes = codebook_weights_bytes(w);
    w->words = int_alloc(bytes);
    if (!w->words) {
        codebook_weights_free(w);
        return NULL;
    }
    memset(w->words, 0, bytes);
    for (int i = 0; i < k; i++)
        for (int n = 0; n < columns; n++) {
            size_t panel = (size_t)(n / width) * w->panel_words, block = (size_t)(i / (32 / w->bits));
            uint32_t code = codes[(size_t)i * (size_t)columns + (size_t)n];
            w->words[panel + block * (size_t)width + (size_t)(n % width)] |=
                code << w->bits * (i % (32 / w->bits));
        }
    return w;
}

void codebook_weights_free(codebook_weights *w)
{
    if (w)
        int_free(w->words);
    free(w);
}

size_t codebook_weights_bytes(const codebook_weights *w)
{
    return (size_t)panels_of(w) * w->panel_words * sizeof *w->words;
}

static void decode_bytes(const uint32_t *words, int k, int width, const float *book, float *to)
{
    for (int i = 0; i < k; i += 4, words += width)
        for (int c = 0; c < width; c++)
            for (int j = 0; j < int_min(4, k - i); j++)
                to[(i + j) * width + c] = book[words[c] >> 8 * j & 255];
}

/* What the tiles of a task share: one panel, its codes and `count` rows of it from row `k`. */
typedef struct {
    const codebook_product *p;
    codebook_tile tile;
    int k, count;
} task;

/* One tile: rows from `i` of the product. Segments do not follow one another in memory, so each adds to the
 * sums that the one before left in `out`. */
static void run_tile(const task *job, int i)
{
    const codebook_product *p = job->p;
    codebook_tile t = job->tile;
    const float *a = p->a + i / p->run_rows * p->line + i % p->run_rows * p->row;
    t.out += i * p->out_row;
    for (int k = job->k; k < job->k + job->count; k += t.k) {
        int within = k % p->length;
        t.k = int_min(p->length - within, job->k + job->count - k);
        t.a = a + p->offsets[k / p->length] + within;
        t.more = k > 0;
        if (t.bits == CODEBOOK_FLOATS)
            t.w = (const float *)job->tile.w + (k - job->k) * p->w->isa->columns;
        p->w->isa->tile(&t);
    }
}

/* Rows `from` .. `end` times one panel; scratch takes CODEBOOK_CHUNK decoded rows of it. */
static void run_panel(const codebook_product *p, int panel, int from, int end, float *scratch)
{
    const codebook_weights *w = p->w;
    const struct codebook_isa *isa = w->isa;
    const int width = isa->columns;
    const int fused = w->bits <= 4 && end - from <= isa->fused_rows && p->length == w->k;
    const int chunk = fused ? w->k : CODEBOOK_CHUNK;
    const uint32_t *words = w->words + (size_t)panel * w->panel_words;
    task job = {.p = p,
                .tile = {.row = p->row,
                         .w = fused ? (const void *)words : scratch,
                         .book = w->book,
                         .bits = fused ? w->bits : CODEBOOK_FLOATS,
                         .columns = int_min(width, w->columns - panel * width),
                         .out = p->out + panel * width,
                         .out_row = p->out_row}};
    for (; job.k < w->k; job.k += chunk) {
        job.count = int_min(chunk, w->k - job.k);
        if (!fused && w->bits == 8)
            decode_bytes(words, job.count, width, w->book, scratch);
        else if (!fused)
            isa->decode(words, w->bits, job.count, w->book, scratch);
        words += (size_t)chunk / (size_t)(32 / w->bits) * (size_t)width;
        for (int i = from; i < end; i += job.tile.rows) {
            job.tile.rows = int_min(isa->rows, int_min(end - i, p->run_rows - i % p->run_rows));
            run_tile(&job, i);
        }
    }
}

typedef struct {
    const codebook_product *p;
    int panels, rows; /* rows of a task */
    float *scratch;
} product_job;

static int run_task(const void *context, int i, int thread)
{
    const product_job *job = context;
    int first = i / job->panels * job->rows, chunk = CODEBOOK_CHUNK * job->p->w->isa->columns;
    run_panel(job->p, i % job->panels, int_min(first, job->p->rows), int_min(first + job->rows, job->p->rows),
              job->scratch + (ptrdiff_t)thread * chunk);
    return 0;
}

int codebook_product_run(const codebook_product *p, int threads)
{
    const codebook_weights *w = p->w;
    int panels = panels_of(w), parts = (p->rows + TASK_ROWS - 1) / TASK_ROWS;
    while (parts && parts * panels < 2 * threads && (p->rows + parts - 1) / parts > 16)
        parts++;
    int tasks = parts * panels, each = parts ? (p->rows + parts - 1) / parts : 0;
    for (int i = 0; i < p->rows && !w->k; i++)
        memset(p->out + i * p->out_row, 0, (size_t)w->columns * sizeof *p->out);
    if (!tasks || !w->k)
        return 0;
    threads = int_team(threads, tasks);
    size_t floats = (size_t)CODEBOOK_CHUNK * (size_t)w->isa->columns * (size_t)threads;
    product_job job = {p, panels, each, int_alloc(floats * sizeof(float))};
    if (!job.scratch)
        return -1;
    int_share(tasks, threads, run_task, &job);
    int_free(job.scratch);
    return 0;
}

int codebook_gemm(const codebook_weights *w, int m, const float *a, ptrdiff_t row, float *out, int threads)
{
    static const ptrdiff_t no_offset[1];
    codebook_product p = {.w = w,
                          .a = a,
                          .row = row,
                          .rows = m,
                          .run_rows = m,
                          .offsets = no_offset,
                          .length = w->k,
                          .out = out,
                          .out_row = w->columns};
    return codebook_product_run(&p, threads);
}

void codebook_gemm_naive(int m, int k, int n, const float *a, ptrdiff_t row, const uint8_t *codes,
                         const float *book, float *out)
{
    for (int i = 0; i < m; i++)
        for (int j = 0; j < n; j++) {
            float acc = 0;
            for (int l = 0; l < k; l++)
                acc = fmaf(a[i * row + l], book[codes[(size_t)l * (size_t)n + (size_t)j]], acc);
            *out++ = acc;
        }
}
