/* The logistic grid, a vector of values at a time; included once per instruction set.
 *
 * s(v) = 1 / (1 + e^-v), S = log s.  Derivations: minquant/estimators/multiclass.py and dropbits.py, whose
 * names are kept; scalar variables are the constants of the grid in float.  Values beyond TAIL sigmas
 * outside the grid are moved there: slopes have reached their limits.
 */
#include <float.h>
#include <math.h>
#include "train_vec_math.h"
#include "train_logistic.h"

#define TAIL 30.0
#define LIMIT 60.0f /* a dropped level outweighs the others at most by e^LIMIT, as in dropbits.py */

static void exp_log(int count, const float *x, float *exponential, float *logarithm)
{
    for (int i = 0; i < count; i += LANES) {
        vec v = vec_load_some(x + i, count - i);
        vec_store_some(exponential + i, vec_exp(v), count - i);
        vec_store_some(logarithm + i, vec_log(vec_abs(v)), count - i);
    }
}

/* clip(floor(x / alpha + 1/2), n_min, n_max); clipped first, so that vec_floor may take it. */
INLINE vec nearest(const logistic_grid *g, vec x)
{
    vec v = vec_clip(x / (float)g->alpha, (float)g->n_min - 1, (float)g->n_max + 1);
    return vec_clip(vec_floor(v + 0.5f), (float)g->n_min, (float)g->n_max);
}

INLINE vec confine(const logistic_grid *g, vec x)
{
    double margin = g->alpha / 2 + TAIL * g->sigma;
    return vec_clip(x, (float)(g->alpha * g->n_min - margin), (float)(g->alpha * g->n_max + margin));
}

static void round_block(const logistic_grid *g, int count, const float *x, float *y)
{
    for (int i = 0; i < count; i += LANES)
        vec_store_some(y + i, nearest(g, vec_load_some(x + i, count - i)) * (float)g->alpha, count - i);
}

static double zeros(int count, const float *dy, const float *x, float slope, float *dx)
{
    vec sum = vec_splat(0);
    for (int i = 0; i < count; i += LANES) {
        vec upstream = vec_load_some(dy + i, count - i), value = vec_load_some(x + i, count - i);
        sum += vec_pick((ivec)(value == 0.0f), upstream, vec_splat(0));
        vec_store_some(dx + i, upstream * slope, count - i);
    }
    return vec_sum(sum);
}

/* Sums over the inner borders about w >= 0 of c = 1 / (1 + e^v), b = c (1 - c) and b v. */
typedef struct {
    vec c, b, bv;
} borders;

/* `whole`: the window of `count` borders holds them all. */
typedef struct {
    float kappa, ratio, edge, centre, alpha_centre, nu, last, reach;
    int whole, count;
} full_grid;

static full_grid full_constants(const logistic_grid *g)
{
    double kappa = g->alpha / g->sigma, centre = (g->n_min + g->n_max) / 2.0;
    int size = g->n_max - g->n_min + 1;
    int reach = (int)ceil(-log(4 * FLT_EPSILON) / kappa); /* beyond, c is 0 or 1 to within 4 roundings */
    int whole = 2 * reach >= size - 1;
    return (full_grid){(float)kappa,
                       (float)exp(kappa),
                       (float)(size / 2.0 * kappa),
                       (float)centre,
                       (float)(g->alpha * centre),
                       (float)(size - 1) / 2,
                       (float)(size / 2 - 1),
                       (float)reach,
                       whole,
                       whole ? size - 1 : 2 * reach};
}

INLINE borders inner_borders(const full_grid *f, vec w)
{
    vec highest = vec_splat(f->last);
    if (!f->whole)
        highest = vec_at_most(vec_floor(w / f->kappa) + f->reach, highest);
    vec start = w - highest * f->kappa, e = vec_exp(start);
    borders sum = {f->last - highest, vec_splat(0), vec_splat(0)};
    for (int k = 0; k < f->count; k++) {
        vec c = 1.0f / (1.0f + e), b = c - c * c; /* c = 1 / (1 + exp(start + k kappa)) */
        sum.c += c;
        sum.b += b;
        sum.bv += b * (start + (float)k * f->kappa);
        e *= f->ratio;
    }
    return sum;
}

/* Adds to totals, whose order is that of `sums`, and returns dx. */
INLINE vec full_vector(const logistic_grid *g, const full_grid *f, int normalize, vec dy, vec x, vec *totals)
{
    vec n = nearest(g, x), sigma = vec_splat((float)g->sigma);
    x = confine(g, x);
    vec u = (x - f->alpha_centre) / sigma, w = vec_abs(u), sign = vec_signed(vec_splat(1), u);
    borders inner = inner_borders(f, w);
    vec top = 1.0f / (1.0f + vec_exp(w - f->edge)), bottom = 1.0f / (1.0f + vec_exp(w + f->edge));
    vec b_top = top - top * top, b_bottom = bottom - bottom * bottom;
    vec bv_top = b_top * (w - f->edge), bv_bottom = b_bottom * (w + f->edge);
    vec scale = vec_splat(1), mean = -sign * f->centre;
    if (normalize) {
        scale = 1.0f / (top - bottom);
        mean = (f->nu * (top + bottom) - inner.c) * scale;
    }
    vec slope = (inner.b - f->nu * (b_top + b_bottom) + mean * (b_top - b_bottom)) * scale;
    vec stretch = (f->nu * (bv_top + bv_bottom) - inner.bv - mean * (bv_top - bv_bottom)) * scale * sign;
    totals[0] += dy * (n - stretch - slope * x / sigma);
    totals[1] += dy * f->kappa * stretch;
    return dy * f->kappa * slope;
}

static void full(const logistic_grid *grid, int normalize, int count, const float *dy, const float *x,
                 float *dx, double *sums)
{
    const logistic_grid g = *grid;
    const full_grid f = full_constants(&g);
    vec totals[2] = {vec_splat(0), vec_splat(0)};
    int i = 0;
    for (; i + LANES <= count; i += LANES)
        vec_store(dx + i, full_vector(&g, &f, normalize, vec_load(dy + i), vec_load(x + i), totals));
    if (i < count) {
        vec last_dy = vec_load_some(dy + i, count - i), last_x = vec_load_some(x + i, count - i);
        vec_store_some(dx + i, full_vector(&g, &f, normalize, last_dy, last_x, totals), count - i);
    }
    sums[0] += vec_sum(totals[0]);
    sums[1] += vec_sum(totals[1]);
}

/* An interval of `size` codes about `middle`: what does not depend on x. */
typedef struct {
    float size, half, log_scale, r_scale;
} width;

static width width_of(const logistic_grid *g, int size)
{
    double half = size * g->alpha / (2 * g->sigma);
    return (width){(float)size, (float)half, (float)log(-expm1(-2 * half)),
                   (float)(2 * exp(-2 * half) / -expm1(-2 * half))};
}

/* Its log probability, and that times sigma differentiated by x, alpha and sigma. */
typedef struct {
    vec log, by_x, by_alpha, by_sigma;
} interval;

/* S(v) = linear - log q, with 1 <= q <= 2, and s(v). */
typedef struct {
    vec linear, q, s;
} sigmoid;

INLINE sigmoid sigmoid_of(vec v)
{
    vec e = vec_exp(-vec_abs(v)), q = 1.0f + e, inverse = 1.0f / q;
    return (sigmoid){vec_at_most(v, vec_splat(0)), q, vec_pick((ivec)(v < 0.0f), e * inverse, inverse)};
}

INLINE interval interval_at(const logistic_grid *g, vec x, vec middle, width of)
{
    vec u = (x - (float)g->alpha * middle) / (float)g->sigma;
    sigmoid below = sigmoid_of(of.half - u), above = sigmoid_of(of.half + u);
    vec t = above.s - below.s, r = 2.0f - below.s - above.s + of.r_scale;
    vec log_p = below.linear + above.linear - vec_log(below.q * above.q) + of.log_scale;
    return (interval){log_p, -t, middle * t + of.size / 2 * r, u * t - of.half * r};
}

/* yes where n is in the interval k, no elsewhere. */
INLINE vec where_inside(const gated_intervals *gated, int k, vec n, vec yes, vec no)
{
    ivec below = (ivec)(n < (float)gated->first[k]), above = (ivec)(n > (float)gated->last[k]);
    return vec_pick(below | above, no, yes);
}

/* What `gated` knows of its intervals before it sees a value. */
typedef struct {
    width own, wide[MOST_INTERVALS];
    float middle[MOST_INTERVALS], log_weight[MOST_INTERVALS];
} gated_constants;

static void prepare(const logistic_grid *g, const gated_intervals *gated, gated_constants *known)
{
    known->own = width_of(g, 1);
    for (int k = 0; k < gated->intervals; k++) {
        known->wide[k] = width_of(g, gated->last[k] - gated->first[k] + 1);
        known->middle[k] = (float)(gated->first[k] + gated->last[k]) / 2;
        known->log_weight[k] = (float)log(gated->weight[k]);
    }
}

/* log sum_k weight_k e^log_k; 0 where there is no interval. */
INLINE vec log_total(const gated_constants *known, const interval *all, int intervals)
{
    vec peak = vec_splat(-INFINITY), sum = vec_splat(0);
    if (!intervals)
        return sum;
    for (int k = 0; k < intervals; k++)
        peak = vec_at_least(peak, all[k].log + known->log_weight[k]);
    for (int k = 0; k < intervals; k++)
        sum += vec_exp(all[k].log + known->log_weight[k] - peak);
    return peak + vec_log(sum);
}

/* Adds to totals, whose order is that of `sums`, and returns dx. */
INLINE vec gated_vector(const logistic_grid *g, const gated_intervals *gated, const gated_constants *known,
                        vec dy, vec x, vec n, vec *totals)
{
    interval own = interval_at(g, x, n, known->own), all[MOST_INTERVALS];
    vec log_gate = vec_splat(0), sigma = vec_splat((float)g->sigma), direct = dy * (float)g->alpha * n;
    for (int k = 0; k < gated->intervals; k++) {
        all[k] = interval_at(g, x, vec_splat(known->middle[k]), known->wide[k]);
        log_gate = where_inside(gated, k, n, vec_splat(known->log_weight[k]), log_gate);
    }
    vec log_w = log_total(known, all, gated->intervals);
    /* STE: dL/dpi_m := dy g_m, the other classes get 0 */
    vec weight = direct * vec_exp(own.log - log_w + log_gate);
    vec ungated = direct * vec_exp(vec_at_most(own.log - log_w, vec_splat(LIMIT)));
    for (int k = 0; k < gated->intervals; k++) {
        vec share = vec_exp(vec_at_most(all[k].log - log_w, vec_splat(LIMIT)));
        vec part = share * (float)gated->weight[k];
        own.by_x -= part * all[k].by_x;
        own.by_alpha -= part * all[k].by_alpha;
        own.by_sigma -= part * all[k].by_sigma;
        if (gated->gate[k] >= 0)
            totals[2 + gated->gate[k]] += where_inside(gated, k, n, ungated, vec_splat(0)) - weight * share;
    }
    totals[0] += weight * own.by_alpha / sigma + dy * n;
    totals[1] += weight * own.by_sigma / sigma;
    return weight * own.by_x / sigma;
}

static void gated(const logistic_grid *grid, const gated_intervals *intervals, int count, const float *dy,
                  const float *x, const float *n, float *dx, double *sums)
{
    const logistic_grid g = *grid;
    const gated_intervals gated = *intervals;
    gated_constants known;
    vec totals[2 + MOST_GATES];
    prepare(&g, &gated, &known);
    for (int k = 0; k < 2 + gated.gates; k++)
        totals[k] = vec_splat(0);
    for (int i = 0; i < count; i += LANES) {
        vec value = vec_load_some(x + i, count - i), upstream = vec_load_some(dy + i, count - i);
        vec code = n ? vec_load_some(n + i, count - i) : nearest(&g, value);
        vec result = gated_vector(&g, &gated, &known, upstream, confine(&g, value), code, totals);
        vec_store_some(dx + i, result, count - i);
    }
    for (int k = 0; k < 2 + gated.gates; k++)
        sums[k] += vec_sum(totals[k]);
}
