/* Matrix-vector products by look-up: the naive loops' sums, wherever an instruction set has them. */
#include "lut.h"
#include "testing.h"
#include <string.h>

static void check_lut(int k, int n, int bits, int largest, int top, int all_top)
{
    uint8_t *a = need((size_t)k), *codes = need((size_t)k * (size_t)n);
    int32_t *wanted = need((size_t)n * sizeof *wanted), *out = need((size_t)n * sizeof *out);
    int8_t levels[4] = {(int8_t)-largest, (int8_t)(largest > 127 ? 127 : largest), 0, 1};
    const int_options options = {.zero_point = (int)below((uint32_t)top + 1), .threads = 1};
    const int_isa *isa;
    for (int i = 0; i < k; i++)
        a[i] = (uint8_t)(all_top ? top : (int)below((uint32_t)top + 1));
    for (size_t i = 0; i < (size_t)k * (size_t)n; i++)
        codes[i] = (uint8_t)(all_top ? 0 : below(1u << bits));
    int_gemm_naive(1, k, n, a, k, codes, levels, wanted, &options);
    for (int i = 0; (isa = int_isa_at(i)); i++) {
        if (!lut_takes(isa, bits, levels, top))
            continue;
        lut_weights *w = lut_weights_new(isa, codes, k, n, bits, levels, top);
        memset(out, 0xa5, (size_t)n * sizeof *out);
        if (w)
            lut_gemv(w, a, options.zero_point, out);
        if (!w || memcmp(out, wanted, (size_t)n * sizeof *out)) {
            fprintf(stderr, "test_int: %s differs: look-up k=%d n=%d bits=%d largest=%d top=%d all_top=%d\n",
                    int_isa_name(isa), k, n, bits, largest, top, all_top);
            exit(1);
        }
        lut_weights_free(w);
    }
    free(a);
    free(codes);
    free(wanted);
    free(out);
}

static void check_luts(void)
{
    static const int lengths[] = {0, 1, 3, 4, 7, 8, 9, 31, 130, 515, 1023, 2100};
    static const int columns[] = {0, 1, 31, 127, 128, 129, 300}, tops[] = {255, 15, 3, 1};
    static const int largest[] = {1, 2, 4, 5, 8, 15, 16, 17, 32, 128};
    for (int bits = 1; bits <= 2; bits++)
        for (int top = 0; top < 4; top++)
            for (int i = 0; i < 10; i++)
                for (int all_top = 0; all_top < 2; all_top++) {
                    int k = lengths[below(12)], n = columns[below(7)];
                    check_lut(k, n, bits, largest[i], tops[top], all_top);
                }
}
