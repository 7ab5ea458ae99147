/* Products with AVX-512 VNNI: 16 columns in a vector, 32 registers. gemm_vnni.h holds the loops. */
#include "int_isa.h"
#if defined(__AVX512VNNI__) && defined(__AVX512BW__) && defined(__AVX512VL__)
#define VECTOR 64
#include "gemm_avx512.h"
#define ROWS VNNI_ROWS
#define FUSED_ROWS VNNI_FUSED_ROWS
#include "gemm_vnni.h"

FUSED(1)
FUSED(2)
FUSED(3)
FUSED(4)
TILE(5, 8)
TILE(6, 8)
TILE(7, 8)
TILE(8, 8)
TILE(9, 8)
TILE(10, 8)
TILE(11, 8)
TILE(12, 8)
TILE(13, 8)
TILE(14, 8)

static void (*const decoded[ROWS])(const int_tile *) = {tile_1_8,  tile_2_8,  tile_3_8,  tile_4_8, tile_5_8,
                                                        tile_6_8,  tile_7_8,  tile_8_8,  tile_9_8, tile_10_8,
                                                        tile_11_8, tile_12_8, tile_13_8, tile_14_8};
static void (*const fused[2][FUSED_ROWS])(const int_tile *) = {{tile_1_2, tile_2_2, tile_3_2, tile_4_2},
                                                               {tile_1_4, tile_2_4, tile_3_4, tile_4_4}};
VNNI_ISA("avx512vnni", 270, &int_loops_avx512vnni, &codebook_isa_avx512vnni);
const int_isa *const int_isa_avx512vnni = &isa;
#else
const int_isa *const int_isa_avx512vnni = NULL;
#endif
