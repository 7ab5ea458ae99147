/* The dot product of AMX in four independent tiles of sums. */
#include "amx_tiles.h"
#include "peak.h"
#ifdef HAS_AMX

static uint64_t run(void)
{
    tile_shapes shapes = {.palette = 1};
    for (int i = 0; i < 8; i++) {
        shapes.rows[i] = TILE_ROWS;
        shapes.bytes[i] = TILE_BYTES;
    }
    configure_tiles(&shapes);
    for (int i = 0; i < PEAK_STEPS; i++) {
        MULTIPLY_TILES(0, 4, 6);
        MULTIPLY_TILES(1, 4, 7);
        MULTIPLY_TILES(2, 5, 6);
        MULTIPLY_TILES(3, 5, 7);
    }
    release_tiles();
    return (uint64_t)PEAK_STEPS * 4 * TILE_ROWS * (TILE_BYTES / 4) * TILE_BYTES;
}

peak_function *const peak_amx = run;
#else
peak_function *const peak_amx = 0;
#endif
