/* Every instruction set of this machine against the naive loops: products and convolutions of random and
 * adversarial codes, as int32 and requantized. Prints one line per instruction set, its name and a hash of
 * all its results, which is the same on every machine; leaves with 1 after the first difference.
 *
 *   CC=cc tools/arm/build.sh tests/c/test_int.c test_int -fopenmp
 */
#include "codebook_cases.h"
#include "lut_cases.h"
#include "int.h"
#include "testing.h"
#include <string.h>

#define GUARD 64 /* bytes between what is written and what must not be */

/* What the codes are: random, or the values that overflow first where a bound is wrong. */
enum { RANDOM, ALL_TOP_BY_LEAST, ALL_0_BY_LEAST, ALL_TOP_BY_GREATEST, ALTERNATING, PATTERNS };

static uint8_t activation(int pattern, size_t i, int top)
{
    switch (pattern) {
    case RANDOM:
        return (uint8_t)below((uint32_t)top + 1);
    case ALTERNATING:
        return (uint8_t)(i % 2 ? top : 0);
    default:
        return (uint8_t)(pattern == ALL_0_BY_LEAST ? 0 : top);
    }
}

static uint8_t code(int pattern, size_t i, int bits)
{
    int top = (1 << bits) - 1;
    if (pattern == RANDOM)
        return (uint8_t)below((uint32_t)top + 1);
    return (uint8_t)(pattern == ALL_TOP_BY_GREATEST || (pattern == ALTERNATING && i % 2) ? top : 0);
}

/* Uniform levels code - 2^(bits-1), or a table of random ones with the first -table and the last as far as
 * +table. */
static void make_levels(int table, int bits, int8_t *levels)
{
    int count = 1 << bits;
    for (int i = 0; i < count; i++)
        levels[i] = (int8_t)(table ? (int)below(2 * (uint32_t)table) - table : i - count / 2);
    if (table) {
        levels[0] = (int8_t)-table;
        levels[count - 1] = (int8_t)(table < 127 ? table : 127);
    }
}

/* table: 0 for uniform levels, else the greatest magnitude of a level. */
typedef struct {
    int m, k, n, bits, table, pattern, top, zero_point, is_signed, threads, steps; /* top 0: 255 */
    int_window s; /* kernel_h is 0 for a matrix product */
} test_case;

static int top_of(const test_case *c) { return c->top ? c->top : 255; }

static void describe(const test_case *c, const char *name, int requantized)
{
    fprintf(stderr,
            "test_int: %s differs: m=%d k=%d n=%d bits=%d table=%d pattern=%d top=%d zero_point=%d signed=%d "
            "threads=%d kernel=%dx%d channels=%d groups=%d requantized=%d\n",
            name, c->m, c->k, c->n, c->bits, c->table, c->pattern, top_of(c), c->zero_point, c->is_signed,
            c->threads, c->s.kernel_h, c->s.kernel_w, c->s.channels, c->s.groups, requantized);
    exit(1);
}

/* The inputs of a case: activations, codes, levels and how sums become codes. */
typedef struct {
    uint8_t *a, *codes;
    size_t a_bytes;
    int8_t levels[256], *direction;
    ptrdiff_t row;
    float *multiplier, *offset;
    int32_t *thresholds, *acc;
    uint8_t *requantized;
    int_requantization q;
} inputs;

static void make_requantization(const test_case *c, inputs *in)
{
    size_t padded = (size_t)c->n + 2 * INT_MAX_COLUMNS;
    in->multiplier = calloc(padded, sizeof(float));
    in->offset = calloc(padded, sizeof(float));
    in->direction = calloc(padded, 1);
    in->thresholds = need(padded * (size_t)(c->steps + 1) * sizeof(int32_t));
    if (!in->multiplier || !in->offset || !in->direction)
        exit(2);
    for (int n = 0; n < c->n; n++) {
        in->multiplier[n] =
            n % 3 ? (float)(1 + below(1000)) / (float)(500 * (1 + c->k)) : 0.5f; /* 0.5: ties */
        in->offset[n] = (float)below(64) / 2;
        in->direction[n] = (int8_t)(c->steps ? (int)below(3) - 1 : 0);
        for (int i = 0; i < c->steps; i++)
            in->thresholds[n * c->steps + i] = (int32_t)below(40000) - 20000;
    }
    in->q = (int_requantization){.multiplier = in->multiplier,
                                 .offset = in->offset,
                                 .direction = c->steps ? in->direction : NULL,
                                 .thresholds = in->thresholds,
                                 .steps = c->steps,
                                 .top = (1 << (1 + below(8))) - 1};
}

static inputs make_inputs(const test_case *c, const int_options *options)
{
    inputs in = {0};
    int conv = c->s.kernel_h;
    size_t codes = (size_t)c->k * (size_t)c->n, rows = (size_t)c->m;
    in.row = c->k + (int)below(2) * 3;
    in.a_bytes = conv ? (size_t)c->s.images * (size_t)c->s.height * (size_t)c->s.width * (size_t)c->s.channels
                 : rows ? (rows - 1) * (size_t)in.row + (size_t)c->k
                        : 0;
    in.a = need(in.a_bytes); /* not a byte more: a sanitizer sees every read beyond */
    in.codes = need(codes);
    make_levels(c->table, c->bits, in.levels);
    for (size_t i = 0; i < in.a_bytes; i++)
        in.a[i] = activation(c->pattern, i, top_of(c));
    for (size_t i = 0; i < codes; i++)
        in.codes[i] = code(c->pattern, i, c->bits);
    in.acc = need(rows * (size_t)c->n * sizeof *in.acc);
    in.requantized = need(rows * (size_t)c->n);
    make_requantization(c, &in);
    if (conv)
        int_conv_naive(&c->s, in.a, in.codes, in.levels, in.acc, options);
    else
        int_gemm_naive(c->m, c->k, c->n, in.a, in.row, in.codes, in.levels, in.acc, options);
    for (size_t i = 0; i < rows; i++)
        int_requantize(&in.q, in.acc + i * (size_t)c->n, 0, c->n, in.requantized + i * (size_t)c->n);
    return in;
}

static void free_inputs(inputs *in)
{
    void *all[] = {in->a,         in->codes,      in->multiplier, in->offset,
                   in->direction, in->thresholds, in->acc,        in->requantized};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        free(all[i]);
}

/* The weights of each group: a convolution's codes hold the columns of all groups side by side. */
static int_weights *make_weights(const test_case *c, const inputs *in, const int_isa *isa, int group)
{
    int segments = 1, length = c->k, groups = c->s.kernel_h ? c->s.groups : 1, columns = c->n / groups;
    uint8_t *codes = need((size_t)c->k * (size_t)columns);
    if (c->s.kernel_h)
        int_conv_segments(&c->s, &segments, &length);
    for (int k = 0; k < c->k; k++)
        memcpy(codes + (size_t)k * (size_t)columns,
               in->codes + (size_t)k * (size_t)c->n + (size_t)(group * columns), (size_t)columns);
    int_weights *w = int_weights_new(isa, codes, segments, length, columns, c->bits, in->levels, top_of(c));
    free(codes);
    if (!w)
        exit(2);
    return w;
}

/* Run one case on one instruction set; its results must be `wanted`, and nothing behind them may be written.
 */
static void run(const test_case *c, const inputs *in, const int_isa *isa, int_weights *const *w,
                const int_options *options, const void *wanted, uint64_t *hash)
{
    size_t bytes = (size_t)c->m * (size_t)c->n * (options->q ? 1 : sizeof(int32_t));
    uint8_t *out = need(bytes + GUARD), guard[GUARD];
    memset(out, 0xa5, bytes + GUARD);
    memset(guard, 0xa5, GUARD);
    int failed = c->s.kernel_h ? int_conv(&c->s, w, in->a, out, options)
                               : int_gemm(w[0], c->m, in->a, in->row, out, c->n, options);
    if (failed || memcmp(out, wanted, bytes) || memcmp(out + bytes, guard, GUARD))
        describe(c, int_isa_name(isa), options->q != NULL);
    *hash = hash_more(*hash, out, bytes);
    free(out);
}

#define MOST_GROUPS 4

static void check(const test_case *c, uint64_t *hashes)
{
    int_options options = {.zero_point = c->zero_point, .is_signed = c->is_signed, .threads = c->threads};
    inputs in = make_inputs(c, &options);
    const int_isa *isa;
    for (int i = 0; i < MOST_ISAS && (isa = int_isa_at(i)); i++) {
        int groups = c->s.kernel_h ? c->s.groups : 1;
        int_weights *w[MOST_GROUPS];
        for (int g = 0; g < groups; g++)
            w[g] = make_weights(c, &in, isa, g);
        options.q = NULL;
        run(c, &in, isa, w, &options, in.acc, &hashes[i]);
        options.q = &in.q;
        run(c, &in, isa, w, &options, in.requantized, &hashes[i]);
        for (int g = 0; g < groups; g++)
            int_weights_free(w[g]);
    }
    free_inputs(&in);
}

static void check_products(uint64_t *hashes)
{
    static const int sizes[] = {0, 1, 2, 3, 4, 7, 8, 9, 13, 15, 16, 17, 31, 33, 49, 64, 65, 100, 129};
    static const int lengths[] = {0, 1, 3, 4, 5, 15, 16, 17, 31, 47, 64, 97, 130, 241, 497, 1030, 2100};
    static const int tables[] = {0, 20, 128};
    for (int bits = 1; bits <= 8; bits++)
        for (int table = 0; table < 3; table++)
            for (int i = 0; i < 24; i++) {
                test_case c = {.bits = bits,
                               .table = tables[table],
                               .pattern = (int)below(2) * (int)below(PATTERNS),
                               .is_signed = (int)below(2),
                               .threads = 1 + (int)below(3)};
                c.k = lengths[i < 17 ? i : (int)below(17)];
                c.m = sizes[below(c.k > 500 ? 10 : 19)];
                c.n = sizes[below(c.k > 500 ? 12 : 19)];
                c.top = c.is_signed || below(2) ? 255 : (2 << below(7)) - 1;
                c.zero_point = (int)below((uint32_t)c.top + 1) - 128 * c.is_signed;
                c.steps = below(3) ? 0 : 1 + (int)below(15);
                check(&c, hashes);
            }
}

/* The codes that overflow first, for each greatest level at which a kernel changes how it adds (its file says
 * which), one below and one above; then the longest sum that fits int32. */
static void check_bounds(uint64_t *hashes)
{
    static const int limits[] = {1, 2, 3, 7, 8, 9, 15, 16, 17, 41, 42, 43, 63, 64, 65, 126, 127, 128};
    static const int tops[] = {255, 15, 3, 1}; /* products of up to 21 stay in int8: 15 * 1, 3 * 7, 1 * 21 */
    for (int pattern = RANDOM; pattern < PATTERNS; pattern++)
        for (int i = 0; i < 4 * (int)(sizeof limits / sizeof *limits); i++)
            for (int bits = 2; bits <= 8; bits *= 2)
                check(&(test_case){.m = 1 + i % 7,
                                   .k = i % 4 ? 500 + 16 * (127 / (tops[i % 4] * limits[i / 4]))
                                              : 3000 / limits[i / 4] + 600,
                                   .n = 9,
                                   .bits = bits,
                                   .table = limits[i / 4],
                                   .pattern = pattern,
                                   .top = tops[i % 4],
                                   .threads = 1},
                      hashes);
    for (int pattern = ALL_TOP_BY_LEAST; pattern < PATTERNS; pattern++)
        for (int bits = 2; bits <= 8; bits *= 2)
            check(
                &(test_case){.m = 7, .k = INT_MAX_K, .n = 2, .bits = bits, .pattern = pattern, .threads = 1},
                hashes);
}

static void check_convolutions(uint64_t *hashes)
{
    for (int i = 0; i < 120; i++) {
        test_case c = {.bits = 1 + i % 8,
                       .table = i / 8 % 3 * 64,
                       .pattern = i % 4 ? RANDOM : i / 4 % PATTERNS,
                       .is_signed = (int)below(2),
                       .threads = 1 + (int)below(3)};
        c.top = c.is_signed || below(2) ? 255 : (2 << below(7)) - 1;
        int_window *s = &c.s;
        s->images = 1 + (int)below(2);
        s->groups = below(3) ? 1 : 1 + (int)below(MOST_GROUPS);
        s->channels = s->groups * (1 + (int)below(20));
        s->columns = s->groups * (1 + (int)below(24));
        s->kernel_h = 1 + (int)below(3);
        s->kernel_w = 1 + (int)below(3);
        s->stride_h = 1 + (int)below(2);
        s->stride_w = 1 + (int)below(2);
        s->pad_top = (int)below(2);
        s->pad_left = (int)below(3);
        s->height = 4 + (int)below(8);
        s->width = 4 + (int)below(i % 3 ? 8 : 40); /* long runs of rows */
        s->out_h = (s->height + 2 * s->pad_top - s->kernel_h) / s->stride_h + 1;
        s->out_w = (s->width + 2 * s->pad_left - s->kernel_w) / s->stride_w + 1;
        c.zero_point = (int)below((uint32_t)c.top + 1) - 128 * c.is_signed;
        c.m = s->images * s->out_h * s->out_w;
        c.k = s->kernel_h * s->kernel_w * (s->channels / s->groups);
        c.n = s->columns;
        check(&c, hashes);
    }
}

static void check_packing(void)
{
    for (int bits = 1; bits <= 8; bits++)
        for (size_t count = 0; count < 40; count++) {
            uint8_t codes[40], back[40], stream[41] = {0};
            for (size_t i = 0; i < count; i++)
                codes[i] = (uint8_t)below(1u << bits);
            int_pack_bits(codes, count, bits, stream);
            int_unpack_bits(stream, count, bits, back);
            if (memcmp(codes, back, count)) {
                fprintf(stderr, "test_int: %zu codes of %d bits change in the packed stream\n", count, bits);
                exit(1);
            }
        }
}

int main(void)
{
    uint64_t hashes[MOST_ISAS];
    const int_isa *isa;
    for (int i = 0; i < MOST_ISAS; i++)
        hashes[i] = 0xcbf29ce484222325u;
    check_packing();
    check_products(hashes);
    check_bounds(hashes);
    check_convolutions(hashes);
    check_codebooks(hashes);
    check_luts();
    for (int i = 0; i < MOST_ISAS && (isa = int_isa_at(i)); i++)
        printf("%-14s %016llx\n", int_isa_name(isa), (unsigned long long)hashes[i]);
    return 0;
}
