/* What the training kernels share: the choice of the instruction set, workers, memory, windows. */
#include <stdlib.h>
#include <string.h>
#include "train.h"
#include "train_conv.h"
#ifdef _OPENMP
#include <omp.h>
#endif

/* Best first. */
static int supported(const conv_isa *isas[3])
{
    int count = 0;
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx512f"))
        isas[count++] = &conv_isa_avx512;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        isas[count++] = &conv_isa_avx2;
#endif
    isas[count++] = &conv_isa_generic;
    return count;
}

static const conv_isa *chosen;

const conv_isa *conv_chosen_isa(void)
{
    const conv_isa *isas[3];
    supported(isas);
    return chosen ? chosen : isas[0];
}

const char *train_isa(void) { return conv_chosen_isa()->name; }

const char *train_isa_at(int index)
{
    const conv_isa *isas[3];
    return index < supported(isas) ? isas[index]->name : NULL;
}

int train_use_isa(const char *name)
{
    const conv_isa *isas[3];
    for (int i = 0, count = supported(isas); i < count; i++)
        if (!strcmp(isas[i]->name, name)) {
            chosen = isas[i];
            return 0;
        }
    return -1;
}

int train_has_openmp(void)
{
#ifdef _OPENMP
    return 1;
#else
    return 0;
#endif
}

int train_worker(void)
{
#ifdef _OPENMP
    return omp_get_thread_num();
#else
    return 0;
#endif
}

/* A few floats more than asked, so that no request is for nothing. */
float *train_floats(size_t count) { return malloc((count + 16) * sizeof(float)); }

size_t conv_padded(const conv_isa *k, int o) { return (size_t)(o + k->lanes - 1) / k->lanes * k->lanes; }

void conv_window(float *to, const float *image, int h, int w, int pitch, int c, int row, int rows, int col,
                 int cols)
{
    int first = at_most(at_least(-col, 0), cols), end = at_least(at_most(w - col, cols), first);
    for (int i = row; i < row + rows; i++, to += (size_t)cols * c) {
        if (i < 0 || i >= h) {
            memset(to, 0, (size_t)cols * c * sizeof(float));
            continue;
        }
        const float *from = image + ((ptrdiff_t)i * w + col + first) * pitch;
        memset(to, 0, (size_t)first * c * sizeof(float));
        if (pitch == c)
            memcpy(to + (size_t)first * c, from, (size_t)(end - first) * c * sizeof(float));
        else
            for (int j = first; j < end; j++, from += pitch)
                memcpy(to + (size_t)j * c, from, (size_t)c * sizeof(float));
        memset(to + (size_t)end * c, 0, (size_t)(cols - end) * c * sizeof(float));
    }
}
