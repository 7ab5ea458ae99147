/* Float32 training kernels: convolution, batch normalization, rectifiers and pooling, forward and backward.
 *
 * Activations are NHWC, weights HWIO, everything C-contiguous.  `threads` only says how many workers
 * share the work: every reduction is cut at fixed places and added in a fixed order, so the results are
 * the same to the last bit at any number of threads.  Functions that need memory return 0, or -1 when
 * there is none; besides the weights packed once, a convolution takes half a megabyte per thread (or one
 * row of windows, where that is more), and its weight gradient eight times the weights.
 */
#ifndef MINQUANT_TRAIN_H
#define MINQUANT_TRAIN_H

#include <stddef.h>
#include <stdint.h>

#ifdef _OPENMP
#define PARALLEL_FOR(threads) \
    MINQUANT_PRAGMA(omp parallel for schedule(dynamic) num_threads(threads) if (threads > 1))
#define MINQUANT_PRAGMA(text) _Pragma(#text)
#else
#define PARALLEL_FOR(threads) (void)(threads);
#endif

/* A convolution: n images of h x w x c, kernels kh x kw, o output channels, oh x ow output pixels.
 * Group g reads the channels [g*c/groups, (g+1)*c/groups) and writes its o/groups channels. */
typedef struct {
    int n, h, w, c, kh, kw, o, oh, ow, stride_h, stride_w, pad_top, pad_left, groups;
} conv_shape;

int train_conv_forward(const conv_shape *s, const float *x, const float *w, float *y, int threads);
int train_conv_dx(const conv_shape *s, const float *dy, const float *w, float *dx, int threads);
int train_conv_dw(const conv_shape *s, const float *x, const float *dy, float *dw, int threads);
/* y (m x n) = a (m x k) times b (k x n). */
int train_matmul(int m, int k, int n, const float *a, const float *b, float *y, int threads);

/* The same convolutions for groups = c = o. */
void train_depthwise_forward(const conv_shape *s, const float *x, const float *w, float *y, int threads);
void train_depthwise_dx(const conv_shape *s, const float *dy, const float *w, float *dx, int threads);
int train_depthwise_dw(const conv_shape *s, const float *x, const float *dy, float *dw, int threads);

/* y = (x - mean) * gamma / sqrt(var + eps) + beta over `rows` rows of c channels, with the rows' own mean and
 * biased variance, which are handed back together with 1 / sqrt(var + eps). */
int train_norm_forward(ptrdiff_t rows, int c, const float *x, const float *gamma, const float *beta,
                       double eps, float *y, float *mean, float *var, float *inv_std, int threads);
int train_norm_backward(ptrdiff_t rows, int c, const float *dy, const float *x, const float *mean,
                        const float *inv_std, const float *gamma, float *dx, float *dgamma, float *dbeta,
                        int threads);

/* y = min(max(x, 0), cap); mask is 1 where 0 < x < cap, else 0. A plain ReLU has cap = INFINITY. */
void train_relu_forward(ptrdiff_t count, const float *x, float cap, float *y, unsigned char *mask,
                        int threads);
void train_relu_backward(ptrdiff_t count, const float *dy, const unsigned char *mask, float *dx, int threads);
/* out = a + b; out may be a or b. */
void train_add(ptrdiff_t count, const float *a, const float *b, float *out, int threads);
/* y[r][k] += bias[k], in place. */
void train_add_bias(ptrdiff_t rows, int c, float *y, const float *bias, int threads);
/* sums[k] = sum over r of x[r][k]. */
int train_sum_rows(ptrdiff_t rows, int c, const float *x, float *sums, int threads);

/* Windows of size x size, `stride` apart, on n images of h x w x c without padding. */
typedef struct {
    int n, h, w, c, size, stride, oh, ow;
} pool_shape;

/* winner is the row-major position of the maximum in its window, the first of equals; size <= 16. */
void train_maxpool_forward(const pool_shape *s, const float *x, float *y, unsigned char *winner, int threads);
void train_maxpool_backward(const pool_shape *s, const float *dy, const unsigned char *winner, float *dx,
                            int threads);
void train_avgpool_forward(const pool_shape *s, const float *x, float *y, int threads);
void train_avgpool_backward(const pool_shape *s, const float *dy, float *dx, int threads);

/* Levels alpha * {n_min..n_max}; a value plus logistic noise of scale sigma falls into the cell of one of
 * them.  What follows from that is in minquant/estimators/multiclass.py.  alpha / sigma is in 1/32..32. */
typedef struct {
    double alpha, sigma;
    int n_min, n_max;
} logistic_grid;

/* e[i] = exp(x[i]) within -87..88, l[i] = log(|x[i]|), for tests of the two. */
void train_exp_log(ptrdiff_t count, const float *x, float *e, float *l);
/* y = alpha clip(floor(x / alpha + 1/2), n_min, n_max), to the bits of NumPy. */
void train_logistic_round(const logistic_grid *g, ptrdiff_t count, const float *x, float *y, int threads);
/* multiclass.full_slopes: dx = dy times the slope by x, sums = dy times those by alpha and by sigma. */
int train_logistic_full(const logistic_grid *g, int normalize, ptrdiff_t count, const float *dy,
                        const float *x, float *dx, double sums[2], int threads);

/* Intervals of codes first[i]..last[i], of which all levels together weigh g = weight[i] times their
 * probability; gate[i] is the index of that factor, or -1 where it is fixed. */
enum { MOST_INTERVALS = 15, MOST_GATES = 7 };
typedef struct {
    int intervals, gates, first[MOST_INTERVALS], last[MOST_INTERVALS], gate[MOST_INTERVALS];
    double weight[MOST_INTERVALS];
} gated_intervals;
/* dropbits.bits_slopes for the chosen codes n, or the nearest where n is NULL; without any interval the cell
 * masses are not normalised.  sums = dy times the slopes by alpha, by sigma and by every gate. */
int train_logistic_gated(const logistic_grid *g, const gated_intervals *gated, ptrdiff_t count,
                         const float *dy, const float *x, const float *n, float *dx,
                         double sums[2 + MOST_GATES], int threads);

/* Relaxed samples over `levels` codes: all of them, or those about the nearest where `local`.  noise holds
 * random bits, `levels` rows of count; hard takes the largest weight forward. */
enum { MOST_LEVELS = 32 };
typedef struct {
    int levels, local, hard;
    double tau;
} relaxation;
void train_logistic_sample(const logistic_grid *g, const relaxation *r, ptrdiff_t count, const float *x,
                           const uint32_t *noise, float *y, int threads);
int train_logistic_sample_slopes(const logistic_grid *g, const relaxation *r, ptrdiff_t count,
                                 const float *dy, const float *x, const uint32_t *noise, float *dx,
                                 double sums[2], int threads);

/* Shared by the files of this folder: the calling worker's index, and memory for at least `count` floats. */
int train_worker(void);
float *train_floats(size_t count);
static inline int at_most(int a, int b) { return a < b ? a : b; }
static inline int at_least(int a, int b) { return a > b ? a : b; }

/* Instruction set of the convolutions in use; those this machine has, best first, NULL behind the last; and
 * the choice of one of them by name, -1 where it is not there. */
const char *train_isa(void);
const char *train_isa_at(int index);
int train_use_isa(const char *name);
int train_has_openmp(void);

#endif
