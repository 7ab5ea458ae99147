/* Tiles of AMX: what ldtilecfg reads, and the instructions. Intrinsics of GCC 12 do not say that they read
 * and write memory. */
#ifndef MINQUANT_AMX_TILES_H
#define MINQUANT_AMX_TILES_H
#include <stddef.h>
#include <stdint.h>

#if defined(__AMX_INT8__) || defined(__AMXINT8__) /* as GCC and as older clang name it */
#define HAS_AMX
#endif

#define TILE_ROWS 16
#define TILE_BYTES 64 /* of a row */

typedef struct {
    uint8_t palette, start_row, reserved[14];
    uint16_t bytes[16]; /* of a row of each tile */
    uint8_t rows[16];
} tile_shapes;

static inline void configure_tiles(const tile_shapes *shapes)
{
    __asm__ volatile("ldtilecfg %0" ::"m"(*shapes));
}
static inline void release_tiles(void) { __asm__ volatile("tilerelease"); }

#define LOAD_TILE(tile, from, stride) \
    __asm__ volatile("tileloadd (%0, %1), %%tmm" #tile ::"r"(from), "r"((ptrdiff_t)(stride)) : "memory")
#define STORE_TILE(tile, to, stride) \
    __asm__ volatile("tilestored %%tmm" #tile ", (%0, %1)" ::"r"(to), "r"((ptrdiff_t)(stride)) : "memory")
#define ZERO_TILE(tile) __asm__ volatile("tilezero %tmm" #tile)
/* sums[row][column] += the sum of 4 products u8 x s8 for each group of 4 bytes of row a[row] and its row of w
 */
#define MULTIPLY_TILES(sums, a, w) __asm__ volatile("tdpbusd %tmm" #w ", %tmm" #a ", %tmm" #sums)

#endif
