/* The convolution micro-kernels, written once with the operations of train_vec.h; each
 * train_conv_<isa>.c includes this file to get its copy.
 *
 * A tile is P pixels (or P rows of the weight gradient) times V vectors of output channels, held in
 * registers during the whole sum.  P and V are constants after inlining; TILE lists the combinations. */
#include "train_conv.h"
#include "train_vec.h"

/* Vectors of panel `index` when `vectors` are split as evenly as possible into the fewest panels. */
INLINE int panel_vectors(int vectors, int index)
{
    int panels = (vectors + TILE_VECTORS - 1) / TILE_VECTORS;
    return vectors * (index + 1) / panels - vectors * index / panels;
}

INLINE int count_vectors(int o) { return (o + LANES - 1) / LANES; }

static void pack(const float *matrix, ptrdiff_t pitch, int rows, int o, float *packed, int first, int total)
{
    int vectors = count_vectors(o);
    for (int index = 0, done = 0, wide; done < vectors; done += wide, index++) {
        wide = panel_vectors(vectors, index);
        float *panel = packed + (ptrdiff_t)done * LANES
        *total + (ptrdiff_t)first *wide *LANES;
        for (int r = 0; r < rows; r++)
            for (int v = 0; v < wide; v++, panel += LANES) {
                int column = (done + v) * LANES;
                vec_store(panel, vec_load_some(matrix + r * pitch + column, o - column));
            }
    }
}

INLINE void forward_tile(const int P, const int V, const correlation *job, const float *x, const float *w,
                         float *y, int columns)
{
    vec sum[TILE_PIXELS][TILE_VECTORS];
#pragma GCC unroll 16
    for (int p = 0; p < P; p++)
#pragma GCC unroll 4
        for (int v = 0; v < V; v++)
            sum[p][v] = vec_splat(0);
    for (int r = 0; r < job->kh; r++, x += job->x_row)
        /* for p, n: sum[p][n] += x[p*x_pixel + k] * w[n] */
        for (int k = 0; k < job->kc; k++, w += V * LANES) {
            vec weight[TILE_VECTORS];
#pragma GCC unroll 4
            for (int v = 0; v < V; v++)
                weight[v] = vec_load(w + v * LANES);
#pragma GCC unroll 16
            for (int p = 0; p < P; p++) {
                vec input = vec_splat(x[p * job->x_pixel + k]);
#pragma GCC unroll 4
                for (int v = 0; v < V; v++)
                    sum[p][v] = vec_fma(input, weight[v], sum[p][v]);
            }
        }
#pragma GCC unroll 16
    for (int p = 0; p < P; p++)
#pragma GCC unroll 4
        for (int v = 0; v < V; v++)
            vec_store_some(y + p * job->y_pixel + v * LANES, sum[p][v], columns - v * LANES);
}

INLINE void dw_tile(const int P, const int V, const correlation_dw *job, const float *x, const float *dy,
                    float *dw, ptrdiff_t pitch)
{
    vec sum[TILE_PIXELS][TILE_VECTORS];
#pragma GCC unroll 16
    for (int p = 0; p < P; p++)
#pragma GCC unroll 4
        for (int v = 0; v < V; v++)
            sum[p][v] = vec_load(dw + p * pitch + v * LANES);
    for (int m = 0; m < job->images; m++)
        for (int i = 0; i < job->oh; i++) {
            const float *row = x + m * job->x_image + i * job->x_step;
            /* for p, n: sum[p][n] += row[j*x_pixel + p] * dy[j][n] */
            for (int j = 0; j < job->ow; j++, row += job->x_pixel, dy += V * LANES) {
                vec grad[TILE_VECTORS];
#pragma GCC unroll 4
                for (int v = 0; v < V; v++)
                    grad[v] = vec_load(dy + v * LANES);
#pragma GCC unroll 16
                for (int p = 0; p < P; p++) {
                    vec input = vec_splat(row[p]);
#pragma GCC unroll 4
                    for (int v = 0; v < V; v++)
                        sum[p][v] = vec_fma(input, grad[v], sum[p][v]);
                }
            }
        }
#pragma GCC unroll 16
    for (int p = 0; p < P; p++)
#pragma GCC unroll 4
        for (int v = 0; v < V; v++)
            vec_store(dw + p * pitch + v * LANES, sum[p][v]);
}

/* One function per tile: forward_3x2 and dw_3x2 for 3 pixels (rows), 2 vectors. */
#define TILE(P, V)                                                                                  \
    static void forward_##P##x##V(const correlation *job, const float *x, const float *w, float *y, \
                                  int columns)                                                      \
    {                                                                                               \
        forward_tile(P, V, job, x, w, y, columns);                                                  \
    }                                                                                               \
    static void dw_##P##x##V(const correlation_dw *job, const float *x, const float *dy, float *dw, \
                             ptrdiff_t pitch)                                                       \
    {                                                                                               \
        dw_tile(P, V, job, x, dy, dw, pitch);                                                       \
    }
#define TILES(V) \
    TILE(1, V)   \
    TILE(2, V)   \
    TILE(3, V)   \
    TILE(4, V)   \
    TILE(5, V)   \
    TILE(6, V)   \
    MORE_TILES(V)
#define NAMES(kind, V)                                                        \
    {                                                                         \
        kind##_1x##V, kind##_2x##V, kind##_3x##V, kind##_4x##V, kind##_5x##V, \
            kind##_6x##V MORE_NAMES(kind, V)                                  \
    }
#if TILE_PIXELS == 8
#define MORE_TILES(V) \
    TILE(7, V)        \
    TILE(8, V)
#define MORE_NAMES(kind, V) , kind##_7x##V, kind##_8x##V
#else
#define MORE_TILES(V)
#define MORE_NAMES(kind, V)
#endif

typedef void (*forward_function)(const correlation *, const float *, const float *, float *, int);
typedef void (*dw_function)(const correlation_dw *, const float *, const float *, float *, ptrdiff_t);

TILES(1)
TILES(2)
#if TILE_VECTORS == 3
TILES(3)
static const forward_function FORWARD[3][TILE_PIXELS] = {NAMES(forward, 1), NAMES(forward, 2),
                                                         NAMES(forward, 3)};
static const dw_function DW[3][TILE_PIXELS] = {NAMES(dw, 1), NAMES(dw, 2), NAMES(dw, 3)};
#else
static const forward_function FORWARD[2][TILE_PIXELS] = {NAMES(forward, 1), NAMES(forward, 2)};
static const dw_function DW[2][TILE_PIXELS] = {NAMES(dw, 1), NAMES(dw, 2)};
#endif

static void correlate(const correlation *job)
{
    int vectors = count_vectors(job->o), tiles = (job->ow + TILE_PIXELS - 1) / TILE_PIXELS;
    for (int index = 0, done = 0, wide; done < vectors; done += wide, index++) {
        wide = panel_vectors(vectors, index);
        const float *panel = job->weights + (ptrdiff_t)done * LANES
        *job->kh * job->kc;
        for (int i = 0; i < job->oh; i++)
            for (int t = 0; t < tiles; t++) {
                int first = job->ow * t / tiles, pixels = job->ow * (t + 1) / tiles - first;
                FORWARD[wide - 1][pixels - 1](job, job->x + i * job->x_step + first * job->x_pixel, panel,
                                              job->y + i * job->y_row + first * job->y_pixel + done * LANES,
                                              job->o - done * LANES);
            }
    }
}

static void correlate_dw(const correlation_dw *job)
{
    int vectors = count_vectors(job->o), tiles = (job->kc + TILE_PIXELS - 1) / TILE_PIXELS;
    ptrdiff_t pitch = (ptrdiff_t)vectors * LANES
    , pixels = (ptrdiff_t)job->images * job->oh * job->ow;
    for (int index = 0, done = 0, wide; done < vectors; done += wide, index++) {
        wide = panel_vectors(vectors, index);
        const float *panel = job->dy + done * LANES
        *pixels;
        for (int r = 0; r < job->kh; r++)
            for (int t = 0; t < tiles; t++) {
                int first = job->kc * t / tiles, rows = job->kc * (t + 1) / tiles - first;
                DW[wide - 1][rows - 1](job, job->x + r * job->x_row + first, panel,
                                       job->dw + (r * job->kc + first) * pitch + done * LANES, pitch);
            }
    }
}
