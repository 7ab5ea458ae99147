/* One kernel call, repeated: what count.py counts the instructions of.
 *
 *   kernel product   NAME M K N BITS LIMIT TOP REPEATS
 *   kernel depthwise NAME SIZE CHANNELS STRIDE BITS LIMIT TOP REPEATS      3 x 3 taps, padding 1
 *
 * NAME: an instruction set of int.h, `naive`, or `float32` (float32.h). Weights have uniform levels of BITS
 * bits, none beyond +-LIMIT; activations are at most TOP. Counting with two values of REPEATS and subtracting
 * leaves whole calls alone.
 */
#include "int.h"
#include "../../tools/arm/float32.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    const char *name;
    int a, b, c, bits, limit, top, repeats;
    int8_t levels[256];
    const int_isa *isa; /* NULL: naive or float32 */
} arguments;

static const int_options one_thread = {.threads = 1};

static void fail(const char *what, const char *name)
{
    fprintf(stderr, "kernel: %s %s\n", what, name);
    exit(2);
}

static void *need(size_t elements, size_t size)
{
    void *memory = malloc(elements * size + 64);
    if (!memory)
        fail("no memory for", "the arrays");
    return memset(memory, 1, elements * size + 64);
}

static size_t up(int n, int to) { return (size_t)((n + to - 1) / to * to); }

static int is(const char *text, const char *name) { return strcmp(text, name) == 0; }

static uint8_t *weight_codes(const arguments *g, size_t count)
{
    uint8_t *codes = need(count, 1);
    for (size_t i = 0; i < count; i++)
        codes[i] = (uint8_t)(i * 2654435761u >> 11 & ((1u << g->bits) - 1));
    return codes;
}

static void product(const arguments *g)
{
    int m = g->a, k = g->b, n = g->c;
    size_t float_k = up(k, 4), float_n = up(n, COLUMNS), rows = up(m, ROWS);
    uint8_t *a = need((size_t)m * (size_t)k, 1), *codes = weight_codes(g, (size_t)k * (size_t)n);
    float *x = need(rows * float_k, sizeof *x), *w = need(float_k * float_n, sizeof *w);
    void *out = need(rows * float_n, sizeof(int32_t));
    int_weights *packed = g->isa ? int_weights_new(g->isa, codes, 1, k, n, g->bits, g->levels, g->top) : NULL;
    for (int i = 0; i < g->repeats; i++)
        if (is(g->name, "naive"))
            int_gemm_naive(m, k, n, a, k, codes, g->levels, out, &one_thread);
        else if (is(g->name, "float32"))
            float32_product(m, (int)float_k, (int)float_n, x, w, out);
        else if (!packed || int_gemm(packed, m, a, k, out, n, &one_thread))
            fail("no memory for", g->name);
}

static void depthwise(const arguments *g)
{
    int size = g->a, channels = g->b, stride = g->c, out_size = (size - 1) / stride + 1;
    int_window s = {.images = 1,
                    .height = size,
                    .width = size,
                    .channels = channels,
                    .groups = channels,
                    .kernel_h = 3,
                    .kernel_w = 3,
                    .pad_top = 1,
                    .pad_left = 1,
                    .stride_h = stride,
                    .stride_w = stride,
                    .out_h = out_size,
                    .out_w = out_size,
                    .columns = channels};
    size_t pitch = up(channels, INT_BLOCK), pixels = (size_t)(size + 2) * up(size + 2 + stride, 4);
    uint8_t *x = need(pixels * pitch, 1), *codes = weight_codes(g, 9 * (size_t)channels);
    float *fx = need(pixels * pitch, sizeof *fx), *fw = need(9 * pitch, sizeof *fw);
    int16_t *levels = need(9 * pitch, sizeof *levels);
    int32_t *sums = need(pitch, sizeof *sums);
    void *out = need(pixels * pitch, sizeof(int32_t));
    for (int i = 0; i < g->repeats; i++)
        if (is(g->name, "naive"))
            int_conv_naive(&s, x, codes, g->levels, out, &one_thread);
        else if (is(g->name, "float32"))
            float32_depthwise(out_size, (int)up(out_size, 4), channels, stride, (size + 2) * channels, fx, fw,
                              out);
        else if (int_depthwise(g->isa, &s, levels, sums, x, out, &one_thread))
            fail("no memory for", g->name);
}

int main(int argc, char **argv)
{
    if (argc != 10)
        fail("use: kernel product|depthwise NAME ... BITS LIMIT TOP REPEATS, not",
             argc > 1 ? argv[1] : "nothing");
    arguments g = {.name = argv[2],
                   .a = atoi(argv[3]),
                   .b = atoi(argv[4]),
                   .c = atoi(argv[5]),
                   .bits = atoi(argv[6]),
                   .limit = atoi(argv[7]),
                   .top = atoi(argv[8]),
                   .repeats = atoi(argv[9]),
                   .isa = int_isa_find(argv[2])};
    if (!g.isa && !is(g.name, "naive") && !is(g.name, "float32"))
        fail("no instruction set", g.name);
    for (int i = 0; i < 1 << g.bits; i++) {
        int level = i - (1 << (g.bits - 1));
        g.levels[i] = (int8_t)(level < -g.limit ? -g.limit : level > g.limit ? g.limit : level);
    }
    if (is(argv[1], "product"))
        product(&g);
    else
        depthwise(&g);
    return 0;
}
