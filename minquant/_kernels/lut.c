/* Matrix-vector products by look-up: packs nibbles, makes tables, feeds panels to the instruction set. */
#include "lut.h"
#include "int_isa.h"
#include <stdlib.h>
#include <string.h>

struct lut_weights {
    lut_function *run;
    int k, columns, bits, groups, pairs; /* groups: k's of a nibble; pairs of nibbles */
    int words, depth;
    int16_t patterns[4][16]; /* level of weight j of a nibble */
    uint8_t *panels;
    int32_t *sums; /* of the levels of each column */
    size_t bytes;
};

static lut_function *run_of(const int_isa *isa)
{
    const char *name = int_isa_name(isa);
    return !strcmp(name, "avx2") ? lut_avx2 : !strcmp(name, "neon") ? lut_neon : NULL;
}

/* The greatest magnitude of a table's entry. */
static int greatest(int bits, const int8_t *levels, int top)
{
    int largest = 0;
    for (int i = 0; i < 1 << bits; i++)
        largest = abs(levels[i]) > largest ? abs(levels[i]) : largest;
    return 4 / bits * top * largest;
}

int lut_takes(const int_isa *isa, int bits, const int8_t *levels, int top)
{
    return run_of(isa) && bits <= 2 && greatest(bits, levels, top) <= 32767 / 4;
}

static int panels_of(const lut_weights *w) { return (w->columns + LUT_COLUMNS - 1) / LUT_COLUMNS; }

lut_weights *lut_weights_new(const int_isa *isa, const uint8_t *codes, int k, int columns, int bits,
                             const int8_t *levels, int top)
{
    lut_weights *w = calloc(1, sizeof *w);
    if (!w)
        return NULL;
    int each = 4 / bits, entry = greatest(bits, levels, top);
    *w = (lut_weights){.run = run_of(isa), .k = k, .columns = columns, .bits = bits, .groups = each};
    w->pairs = (k + 2 * each - 1) / (2 * each);
    w->words = entry > 127 / 4;
    w->depth = entry ? (w->words ? 32767 : 127) / entry & ~1 : LUT_GROUPS;
    for (int j = 0; j < each; j++)
        for (int i = 0; i < 16; i++)
            w->patterns[j][i] = levels[i >> bits * j & ((1 << bits) - 1)];
    w->bytes = (size_t)panels_of(w) * (size_t)w->pairs * LUT_COLUMNS;
    w->panels = int_alloc(w->bytes);
    w->sums = calloc((size_t)columns + 1, sizeof *w->sums);
    if (!w->panels || !w->sums) {
        lut_weights_free(w);
        return NULL;
    }
    memset(w->panels, 0, w->bytes);
    for (int i = 0; i < k; i++)
        for (int n = 0; n < columns; n++) {
            uint8_t code = codes[(size_t)i * (size_t)columns + (size_t)n];
            size_t place = (size_t)(n / LUT_COLUMNS) * (size_t)w->pairs + (size_t)(i / (2 * each));
            w->panels[place * LUT_COLUMNS + (size_t)(n % LUT_COLUMNS)] |=
                (uint8_t)(code << bits * (i % (2 * each)));
            w->sums[n] += levels[code];
        }
    return w;
}

void lut_weights_free(lut_weights *w)
{
    if (w) {
        int_free(w->panels);
        free(w->sums);
    }
    free(w);
}

size_t lut_weights_bytes(const lut_weights *w) { return w->bytes; }

/* The tables of groups from .. from + count; activations behind the last are 0, whatever their codes. */
static void make_tables(const lut_weights *w, const uint8_t *a, int from, int count, uint8_t *to)
{
    for (int group = from; group < from + count; group++) {
        int16_t entries[16] = {0};
        for (int j = 0; j < w->groups; j++) {
            int k = group * w->groups + j, x = k < w->k ? a[k] : 0;
            for (int i = 0; i < 16; i++)
                entries[i] = (int16_t)(entries[i] + x * w->patterns[j][i]);
        }
        for (int i = 0; i < 16; i++)
            to[i] = (uint8_t)entries[i];
        for (int i = 0; w->words && i < 16; i++)
            to[16 + i] = (uint8_t)(entries[i] >> 8);
        to += w->words ? 32 : 16;
    }
}

void lut_gemv(const lut_weights *w, const uint8_t *a, int zero_point, int32_t *out)
{
    uint8_t tables[32 * LUT_GROUPS];
    int32_t edge[LUT_COLUMNS];
    for (int n = 0; n < w->columns; n++)
        out[n] = (int32_t)(0u - (uint32_t)zero_point * (uint32_t)w->sums[n]);
    for (int pair = 0; pair < w->pairs; pair += LUT_GROUPS / 2) {
        lut_tile t = {.tables = tables, .words = w->words, .depth = w->depth};
        t.pairs = int_min(LUT_GROUPS / 2, w->pairs - pair);
        make_tables(w, a, 2 * pair, 2 * t.pairs, tables);
        for (int p = 0; p < panels_of(w); p++) {
            int first = p * LUT_COLUMNS, used = int_min(LUT_COLUMNS, w->columns - first);
            t.codes = w->panels + ((size_t)p * (size_t)w->pairs + (size_t)pair) * LUT_COLUMNS;
            t.sums = used < LUT_COLUMNS ? edge : out + first;
            if (used < LUT_COLUMNS)
                memcpy(edge, out + first, (size_t)used * sizeof *edge);
            w->run(&t);
            if (used < LUT_COLUMNS)
                memcpy(out + first, edge, (size_t)used * sizeof *edge);
        }
    }
}
