/* The tiles of the ARM kernels with 8-bit products: the including file defines product(t, rows, bits). */
#define TILE(rows, bits) \
    static void tile_##rows##_##bits(const int_tile *t) { product(t, rows, bits); }
TILE(1, 8)
TILE(2, 8)
TILE(3, 8)
TILE(4, 8)
TILE(5, 8)
TILE(6, 8)
TILE(1, 4)
TILE(2, 4)
TILE(1, 2)
TILE(2, 2)

static void tile(const int_tile *t)
{
    static void (*const tiles[3][DOT_ROWS])(const int_tile *) = {
        {tile_1_2, tile_2_2},
        {tile_1_4, tile_2_4},
        {tile_1_8, tile_2_8, tile_3_8, tile_4_8, tile_5_8, tile_6_8}};
    tiles[t->bits / 4][t->rows - 1](t);
}
