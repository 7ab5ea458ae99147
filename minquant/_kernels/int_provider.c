/* Whose code an instruction set runs for each kind of operation: for information. */
#include "codebook.h"
#include "int_isa.h"
#include "lut.h"

static const char *provider(const int_isa *isa, int family)
{
    static const int8_t levels[2];
    switch (family) {
    case INT_LOOPS:
        return (*isa->loops)->name;
    case INT_CODEBOOKS:
        return (*isa->floats)->name;
    case INT_LOOKUPS:
        return lut_takes(isa, 1, levels, 1) ? isa->name : "-";
    default:
        return isa->name;
    }
}

const char *int_isa_provider(int index, int family)
{
    for (int i = 0; i < INT_CANDIDATES; i++) {
        int present;
        const int_isa *isa = int_isa_candidate(i, &present);
        if (isa && index-- == 0)
            return provider(isa, family);
    }
    return NULL;
}
