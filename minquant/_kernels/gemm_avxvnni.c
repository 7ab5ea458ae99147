/* Products with AVX-VNNI, the dot product of processors without AVX-512: 8 columns in a vector, 16 registers.
 * gemm_vnni.h holds the loops. */
#include "int_isa.h"
#if defined(__AVXVNNI__) && defined(__AVX2__)
#define VECTOR 32
#define ROWS 6
#define FUSED_ROWS 2
#include "gemm_finish.h"
#include "gemm_vnni.h"

ALWAYS void store(const int_tile *t, int row, int column, vec sums)
{
    int32_t eight[LANES];
    save(eight, sums);
    finish_columns(t, row, column, LANES, eight);
}

FUSED(1)
FUSED(2)
TILE(3, 8)
TILE(4, 8)
TILE(5, 8)
TILE(6, 8)

static void (*const decoded[ROWS])(const int_tile *) = {tile_1_8, tile_2_8, tile_3_8,
                                                        tile_4_8, tile_5_8, tile_6_8};
static void (*const fused[2][FUSED_ROWS])(const int_tile *) = {{tile_1_2, tile_2_2}, {tile_1_4, tile_2_4}};
VNNI_ISA("avxvnni", 140, &int_loops_avx2, &codebook_isa_avx2);
const int_isa *const int_isa_avxvnni = &isa;
#else
const int_isa *const int_isa_avxvnni = NULL;
#endif
