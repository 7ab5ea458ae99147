/* The plain parts of peak.h. */
#include "peak.h"
#include <string.h>

uint64_t peak_products(const int_isa *isa)
{
    const struct {
        const char *name;
        peak_function *run;
    } loops[] = {
        {"amx", peak_amx}, {"avx512vnni", peak_avx512vnni}, {"avxvnni", peak_avxvnni}, {"avx2", peak_avx2}};
    for (int i = 0; i < 4; i++)
        if (!strcmp(int_isa_name(isa), loops[i].name) && loops[i].run)
            return loops[i].run();
    return 0;
}

typedef uint64_t eight __attribute__((vector_size(64), aligned(8)));

uint64_t peak_read(const uint64_t *from, size_t bytes)
{
    eight first = {0}, second = {0};
    for (const uint64_t *end = from + bytes / 8; from < end; from += 16) {
        first ^= *(const eight *)from;
        second ^= *(const eight *)(from + 8);
    }
    first ^= second;
    return first[0] ^ first[1] ^ first[2] ^ first[3] ^ first[4] ^ first[5] ^ first[6] ^ first[7];
}
