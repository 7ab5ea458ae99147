/* Relaxed (concrete) samples of the logistic grid; the rest of train_logistic_tile.h. */

/* What does not depend on x. */
typedef struct {
    float alpha, sigma, kappa, inverse_tau, n_min, n_max, width;
    int levels, local, hard;
} relaxed_grid;

static relaxed_grid relaxed_constants(const logistic_grid *g, const relaxation *r)
{
    return (relaxed_grid){(float)g->alpha, (float)g->sigma, (float)(g->alpha / g->sigma), (float)(1 / r->tau),
                          (float)g->n_min, (float)g->n_max, (float)(r->levels / 2),       r->levels,
                          r->local,        r->hard};
}

/* Of one vector of values: codes first + i with weight z[i], and s(u - border) of the cell borders. */
typedef struct {
    vec first, u, chosen, mean, z[MOST_LEVELS], border[MOST_LEVELS + 1];
} relaxed;

/* -log U of random bits: U = (their upper 23 + 1/2) / 2^23. Gumbel noise is minus the log of it. */
INLINE vec exponential_noise(const uint32_t *bits)
{
    ivec raw;
    memcpy(&raw, bits, sizeof raw);
    return -vec_log((__builtin_convertvector((raw >> 9) & 0x7fffff, vec) + 0.5f) * (1.0f / (1 << 23)));
}

/* z = softmax((log p + noise) / tau); the factor that all cells have in common cancels. */
INLINE void relax(const logistic_grid *g, const relaxed_grid *r, vec x, const uint32_t *noise,
                  ptrdiff_t pitch, relaxed *to)
{
    to->first = vec_splat(r->n_min);
    if (r->local)
        to->first = nearest(g, x) - r->width;
    to->u = (x - r->alpha * to->first) / r->sigma;
    vec peak = vec_splat(-INFINITY), best = vec_splat(0), total = vec_splat(0), mean = vec_splat(0);
    sigmoid left = sigmoid_of(to->u + r->kappa / 2);
    to->border[0] = left.s;
    for (int i = 0; i < r->levels; i++) {
        vec v = to->u - r->kappa * ((float)i + 0.5f), code = to->first + (float)i;
        sigmoid right = sigmoid_of(v);
        vec scaled = vec_log(left.q * right.q * exponential_noise(noise + i * pitch));
        vec logit = (left.linear + right.linear - v - scaled) * r->inverse_tau; /* S(-v) = S(v) - v */
        logit = vec_pick((ivec)(code < r->n_min) | (ivec)(code > r->n_max), vec_splat(-INFINITY), logit);
        best = vec_pick((ivec)(logit > peak), vec_splat((float)i), best);
        peak = vec_at_least(peak, logit);
        to->z[i] = logit;
        to->border[i + 1] = right.s;
        left = right;
    }
    for (int i = 0; i < r->levels; i++) {
        to->z[i] = vec_exp(to->z[i] - peak);
        total += to->z[i];
        mean += (float)i * to->z[i];
    }
    to->mean = mean / total;
    for (int i = 0; i < r->levels; i++)
        to->z[i] /= total;
    to->chosen = to->first + to->mean;
    if (r->hard)
        to->chosen = to->first + best;
}

/* The noise of the last count < LANES values, as rows of LANES. */
static void last_noise(uint32_t *to, int levels, const uint32_t *noise, ptrdiff_t pitch, int count)
{
    memset(to, 0, (size_t)levels * LANES * sizeof *to);
    for (int i = 0; i < levels; i++)
        memcpy(to + i * LANES, noise + i * pitch, (size_t)count * sizeof *to);
}

INLINE vec sample_vector(const logistic_grid *g, const relaxed_grid *r, vec x, const uint32_t *noise,
                         ptrdiff_t pitch)
{
    relaxed drawn;
    relax(g, r, x, noise, pitch, &drawn);
    return drawn.chosen * r->alpha;
}

static void sample(const logistic_grid *grid, const relaxation *settings, int count, const float *x,
                   const uint32_t *noise, ptrdiff_t pitch, float *y)
{
    const logistic_grid g = *grid;
    const relaxed_grid r = relaxed_constants(&g, settings);
    int i = 0;
    for (; i + LANES <= count; i += LANES)
        vec_store(y + i, sample_vector(&g, &r, vec_load(x + i), noise + i, pitch));
    if (i < count) {
        uint32_t rest[MOST_LEVELS * LANES];
        last_noise(rest, r.levels, noise + i, pitch, count - i);
        vec_store_some(y + i, sample_vector(&g, &r, vec_load_some(x + i, count - i), rest, LANES), count - i);
    }
}

/* With s_i = s(u - border i), the cell between two borders has t = s_i + s_(i+1) - 1 and r = s_(i+1) - s_i
 * plus a constant that cancels, because the dl add up to 0. */
INLINE vec slopes_vector(const logistic_grid *g, const relaxed_grid *r, vec dy, vec x, const uint32_t *noise,
                         ptrdiff_t pitch, vec *totals)
{
    relaxed drawn;
    relax(g, r, x, noise, pitch, &drawn);
    vec sum_t = vec_splat(0), sum_it = vec_splat(0), sum_r = vec_splat(0);
    for (int i = 0; i < r->levels; i++) {
        vec dl = drawn.z[i] * ((float)i - drawn.mean);
        vec t = dl * (drawn.border[i] + drawn.border[i + 1] - 1.0f);
        sum_t += t;
        sum_it += (float)i * t;
        sum_r += dl * (drawn.border[i + 1] - drawn.border[i]);
    }
    vec scaled = dy * (r->kappa * r->inverse_tau), by_step = sum_it + 0.5f * sum_r;
    totals[0] += scaled * (drawn.first * sum_t + by_step) + dy * drawn.chosen;
    totals[1] += scaled * (drawn.u * sum_t - r->kappa * by_step);
    return -scaled * sum_t;
}

static void sample_slopes(const logistic_grid *grid, const relaxation *settings, int count, const float *dy,
                          const float *x, const uint32_t *noise, ptrdiff_t pitch, float *dx, double *sums)
{
    const logistic_grid g = *grid;
    const relaxed_grid r = relaxed_constants(&g, settings);
    vec totals[2] = {vec_splat(0), vec_splat(0)};
    int i = 0;
    for (; i + LANES <= count; i += LANES)
        vec_store(dx + i, slopes_vector(&g, &r, vec_load(dy + i), vec_load(x + i), noise + i, pitch, totals));
    if (i < count) {
        uint32_t rest[MOST_LEVELS * LANES];
        last_noise(rest, r.levels, noise + i, pitch, count - i);
        vec last_dy = vec_load_some(dy + i, count - i), last_x = vec_load_some(x + i, count - i);
        vec_store_some(dx + i, slopes_vector(&g, &r, last_dy, last_x, rest, LANES, totals), count - i);
    }
    sums[0] += vec_sum(totals[0]);
    sums[1] += vec_sum(totals[1]);
}
