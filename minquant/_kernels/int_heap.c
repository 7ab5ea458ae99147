/* Memory from the heap: all that the kernels take of it for one call comes from here. */
#include "int_isa.h"
#include <stdlib.h>

void *int_alloc(size_t bytes)
{
    void *memory;
    return posix_memalign(&memory, 64, bytes + 64)
               ? NULL
               : memory; /* loads of whole vectors end past the last byte */
}

void int_free(void *memory) { free(memory); }

int_weights *int_weights_new(const int_isa *isa, const uint8_t *codes, int segments, int length, int columns,
                             int bits, const int8_t *levels, int top)
{
    void *memory = int_alloc(int_weights_size(isa, segments, length, columns, bits, levels));
    int_codes from = {codes, 8, columns, 0};
    return memory ? int_weights_init(memory, isa, &from, segments, length, columns, bits, levels, top) : NULL;
}

void int_weights_free(int_weights *w) { int_free(w); }
