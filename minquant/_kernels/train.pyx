# cython: language_level=3, boundscheck=False, wraparound=False, embedsignature=True
"""Float32 training kernels for C-contiguous NHWC arrays: shapes are checked here, train_*.c computes.

Output arrays are passed in by the caller and wholly overwritten. `threads` never changes a result.
"""
from libc.math cimport INFINITY
from libc.stdint cimport uint32_t

cdef extern from "train.h" nogil:
    ctypedef struct conv_shape:
        int n, h, w, c, kh, kw, o, oh, ow, stride_h, stride_w, pad_top, pad_left, groups
    ctypedef struct pool_shape:
        int n, h, w, c, size, stride, oh, ow
    int train_conv_forward(const conv_shape *s, const float *x, const float *w, float *y, int threads)
    int train_conv_dx(const conv_shape *s, const float *dy, const float *w, float *dx, int threads)
    int train_conv_dw(const conv_shape *s, const float *x, const float *dy, float *dw, int threads)
    int train_matmul(int m, int k, int n, const float *a, const float *b, float *y, int threads)
    void train_depthwise_forward(const conv_shape *s, const float *x, const float *w, float *y, int threads)
    void train_depthwise_dx(const conv_shape *s, const float *dy, const float *w, float *dx, int threads)
    int train_depthwise_dw(const conv_shape *s, const float *x, const float *dy, float *dw, int threads)
    int train_norm_forward(Py_ssize_t rows, int c, const float *x, const float *gamma, const float *beta,
                           double eps, float *y, float *mean, float *var, float *inv_std, int threads)
    int train_norm_backward(Py_ssize_t rows, int c, const float *dy, const float *x, const float *mean,
                            const float *inv_std, const float *gamma, float *dx, float *dgamma, float *dbeta,
                            int threads)
    void train_relu_forward(Py_ssize_t count, const float *x, float cap, float *y, unsigned char *mask,
                            int threads)
    void train_relu_backward(Py_ssize_t count, const float *dy, const unsigned char *mask, float *dx,
                             int threads)
    void train_add(Py_ssize_t count, const float *a, const float *b, float *out, int threads)
    void train_add_bias(Py_ssize_t rows, int c, float *y, const float *bias, int threads)
    int train_sum_rows(Py_ssize_t rows, int c, const float *x, float *sums, int threads)
    void train_maxpool_forward(const pool_shape *s, const float *x, float *y, unsigned char *winner,
                               int threads)
    void train_maxpool_backward(const pool_shape *s, const float *dy, const unsigned char *winner, float *dx,
                                int threads)
    void train_avgpool_forward(const pool_shape *s, const float *x, float *y, int threads)
    void train_avgpool_backward(const pool_shape *s, const float *dy, float *dx, int threads)
    ctypedef struct logistic_grid:
        double alpha, sigma
        int n_min, n_max
    enum: MOST_INTERVALS, MOST_GATES, MOST_LEVELS
    ctypedef struct gated_intervals:
        int intervals, gates
        int *first
        int *last
        int *gate
        double *weight
    ctypedef struct relaxation:
        int levels, local, hard
        double tau
    void train_exp_log(Py_ssize_t count, const float *x, float *e, float *l)
    void train_logistic_round(const logistic_grid *g, Py_ssize_t count, const float *x, float *y, int threads)
    int train_logistic_full(const logistic_grid *g, int normalize, Py_ssize_t count, const float *dy,
                            const float *x, float *dx, double *sums, int threads)
    int train_logistic_gated(const logistic_grid *g, const gated_intervals *gated, Py_ssize_t count,
                             const float *dy, const float *x, const float *n, float *dx, double *sums,
                             int threads)
    void train_logistic_sample(const logistic_grid *g, const relaxation *r, Py_ssize_t count, const float *x,
                               const uint32_t *noise, float *y, int threads)
    int train_logistic_sample_slopes(const logistic_grid *g, const relaxation *r, Py_ssize_t count,
                                     const float *dy, const float *x, const uint32_t *noise, float *dx,
                                     double *sums, int threads)
    const char *train_isa()
    const char *train_isa_at(int index)
    int train_use_isa(const char *name)
    int train_has_openmp()


def isa():
    """Instruction set of the convolutions in use."""
    return train_isa().decode()


def isas():
    """Instruction sets of the convolutions that this machine has, best first."""
    names, index = [], 0
    while train_isa_at(index) != NULL:
        names.append(train_isa_at(index).decode())
        index += 1
    return names


def use_isa(name):
    """Compute convolutions with another of the instruction sets of `isas()`."""
    if train_use_isa(name.encode()):
        raise ValueError(f"{name!r} is not among the instruction sets of this machine: {', '.join(isas())}")


def has_openmp():
    """Whether more than one thread has any effect."""
    return bool(train_has_openmp())


cdef int demand(bint condition, what) except -1:
    if not condition:
        raise ValueError(f"{what}; call it through minquant.nn.ops")


cdef int checked(int failed) except -1:
    if failed:
        raise MemoryError("no memory for the scratch buffers of a training kernel; use a smaller batch")


cdef conv_shape conv_shape_of(const float[:, :, :, ::1] x, const float[:, :, :, ::1] w,
                              const float[:, :, :, ::1] y, int stride, int padding, int groups) except *:
    cdef conv_shape s = conv_shape(
        n=x.shape[0], h=x.shape[1], w=x.shape[2], c=x.shape[3], kh=w.shape[0], kw=w.shape[1], o=w.shape[3],
        oh=y.shape[1], ow=y.shape[2], stride_h=stride, stride_w=stride, pad_top=padding, pad_left=padding,
        groups=groups)
    demand(min(s.n, s.h, s.w, s.c, s.kh, s.kw, s.o, s.oh, s.ow, stride, groups) > 0 and padding >= 0,
           "a convolution needs every size, stride and groups positive and padding not negative")
    demand(s.c == w.shape[2] * groups and s.o % groups == 0 and y.shape[0] == s.n and y.shape[3] == s.o,
           f"channels or batch do not match in a convolution with {groups} groups")
    demand(s.oh == (s.h + 2 * padding - s.kh) // stride + 1
           and s.ow == (s.w + 2 * padding - s.kw) // stride + 1,
           f"output {s.oh}x{s.ow} does not belong to input {s.h}x{s.w}, kernel {s.kh}x{s.kw}, "
           f"stride {stride}, padding {padding}")
    return s


cdef bint is_depthwise(const conv_shape *s) noexcept nogil:
    return s.groups > 1 and s.groups == s.c and s.groups == s.o


def conv_forward(const float[:, :, :, ::1] x, const float[:, :, :, ::1] w, float[:, :, :, ::1] y,
                 int stride, int padding, int groups, int threads):
    """y = x convolved with w."""
    cdef conv_shape s = conv_shape_of(x, w, y, stride, padding, groups)
    cdef int failed = 0
    with nogil:
        if is_depthwise(&s):
            train_depthwise_forward(&s, &x[0, 0, 0, 0], &w[0, 0, 0, 0], &y[0, 0, 0, 0], threads)
        else:
            failed = train_conv_forward(&s, &x[0, 0, 0, 0], &w[0, 0, 0, 0], &y[0, 0, 0, 0], threads)
    checked(failed)


def conv_dx(const float[:, :, :, ::1] dy, const float[:, :, :, ::1] w, float[:, :, :, ::1] dx,
            int stride, int padding, int groups, int threads):
    """dx: gradient of the input."""
    cdef conv_shape s = conv_shape_of(dx, w, dy, stride, padding, groups)
    cdef int failed = 0
    with nogil:
        if is_depthwise(&s):
            train_depthwise_dx(&s, &dy[0, 0, 0, 0], &w[0, 0, 0, 0], &dx[0, 0, 0, 0], threads)
        else:
            failed = train_conv_dx(&s, &dy[0, 0, 0, 0], &w[0, 0, 0, 0], &dx[0, 0, 0, 0], threads)
    checked(failed)


def conv_dw(const float[:, :, :, ::1] x, const float[:, :, :, ::1] dy, float[:, :, :, ::1] dw,
            int stride, int padding, int groups, int threads):
    """dw: gradient of the weights."""
    cdef conv_shape s = conv_shape_of(x, dw, dy, stride, padding, groups)
    cdef int failed
    with nogil:
        if is_depthwise(&s):
            failed = train_depthwise_dw(&s, &x[0, 0, 0, 0], &dy[0, 0, 0, 0], &dw[0, 0, 0, 0], threads)
        else:
            failed = train_conv_dw(&s, &x[0, 0, 0, 0], &dy[0, 0, 0, 0], &dw[0, 0, 0, 0], threads)
    checked(failed)


def matmul(const float[:, ::1] a, const float[:, ::1] b, float[:, ::1] y, int threads):
    """y = a b."""
    cdef int m = <int>a.shape[0], k = <int>a.shape[1], n = <int>b.shape[1], failed
    demand(m > 0 and k > 0 and n > 0 and b.shape[0] == k and y.shape[0] == m and y.shape[1] == n,
           "shapes do not match in a matrix product")
    with nogil:
        failed = train_matmul(m, k, n, &a[0, 0], &b[0, 0], &y[0, 0], threads)
    checked(failed)


def norm_forward(const float[:, ::1] x, const float[::1] gamma, const float[::1] beta, double eps,
                 float[:, ::1] y, float[::1] mean, float[::1] var, float[::1] inv_std, int threads):
    """Batch normalization of the rows of x with their own statistics."""
    cdef Py_ssize_t rows = x.shape[0]
    cdef int c = <int>x.shape[1], failed
    demand(rows > 0 and c > 0 and y.shape[0] == rows and y.shape[1] == c and gamma.shape[0] == c
           and beta.shape[0] == c and mean.shape[0] == c and var.shape[0] == c and inv_std.shape[0] == c,
           "arrays of different size in a batch normalization")
    with nogil:
        failed = train_norm_forward(rows, c, &x[0, 0], &gamma[0], &beta[0], eps, &y[0, 0], &mean[0], &var[0],
                                    &inv_std[0], threads)
    checked(failed)


def norm_backward(const float[:, ::1] dy, const float[:, ::1] x, const float[::1] mean,
                  const float[::1] inv_std, const float[::1] gamma, float[:, ::1] dx, float[::1] dgamma,
                  float[::1] dbeta, int threads):
    """Its gradients."""
    cdef Py_ssize_t rows = x.shape[0]
    cdef int c = <int>x.shape[1], failed
    demand(rows > 0 and c > 0 and dy.shape[0] == rows and dy.shape[1] == c and dx.shape[0] == rows
           and dx.shape[1] == c and mean.shape[0] == c and inv_std.shape[0] == c and gamma.shape[0] == c
           and dgamma.shape[0] == c and dbeta.shape[0] == c,
           "arrays of different size in a batch normalization")
    with nogil:
        failed = train_norm_backward(rows, c, &dy[0, 0], &x[0, 0], &mean[0], &inv_std[0], &gamma[0],
                                     &dx[0, 0], &dgamma[0], &dbeta[0], threads)
    checked(failed)


def relu_forward(const float[::1] x, cap, float[::1] y, unsigned char[::1] mask, int threads):
    """y = clip(x, 0, cap) and where its gradient passes; cap may be None."""
    cdef float limit = INFINITY if cap is None else cap
    demand(x.shape[0] > 0 and y.shape[0] == x.shape[0] and mask.shape[0] == x.shape[0],
           "arrays of different size")
    with nogil:
        train_relu_forward(x.shape[0], &x[0], limit, &y[0], &mask[0], threads)


def relu_backward(const float[::1] dy, const unsigned char[::1] mask, float[::1] dx, int threads):
    """dx = dy where mask, else 0."""
    demand(dy.shape[0] > 0 and dx.shape[0] == dy.shape[0] and mask.shape[0] == dy.shape[0],
           "arrays of different size")
    with nogil:
        train_relu_backward(dy.shape[0], &dy[0], &mask[0], &dx[0], threads)


def add(const float[::1] a, const float[::1] b, float[::1] out, int threads):
    """out = a + b."""
    demand(a.shape[0] > 0 and b.shape[0] == a.shape[0] and out.shape[0] == a.shape[0],
           "arrays of different size")
    with nogil:
        train_add(a.shape[0], &a[0], &b[0], &out[0], threads)


def add_bias(float[:, ::1] y, const float[::1] bias, int threads):
    """y += bias, row by row, in place."""
    demand(y.shape[0] > 0 and y.shape[1] > 0 and bias.shape[0] == y.shape[1], "arrays of different size")
    with nogil:
        train_add_bias(y.shape[0], <int>y.shape[1], &y[0, 0], &bias[0], threads)


def sum_rows(const float[:, ::1] x, float[::1] sums, int threads):
    """sums = x summed over its rows."""
    cdef int failed
    demand(x.shape[0] > 0 and x.shape[1] > 0 and sums.shape[0] == x.shape[1], "arrays of different size")
    with nogil:
        failed = train_sum_rows(x.shape[0], <int>x.shape[1], &x[0, 0], &sums[0], threads)
    checked(failed)


cdef pool_shape pool_shape_of(const float[:, :, :, ::1] x, const float[:, :, :, ::1] y, int size,
                              int stride) except *:
    cdef pool_shape s = pool_shape(n=x.shape[0], h=x.shape[1], w=x.shape[2], c=x.shape[3], size=size,
                                   stride=stride, oh=y.shape[1], ow=y.shape[2])
    demand(min(s.n, s.h, s.w, s.c, s.oh, s.ow, stride) > 0 and 0 < size <= 16 and y.shape[0] == s.n
           and y.shape[3] == s.c and s.oh == (s.h - size) // stride + 1
           and s.ow == (s.w - size) // stride + 1,
           f"pooling of {s.h}x{s.w} by size {size} (1..16) and stride {stride} does not give {s.oh}x{s.ow}")
    return s


cdef bint same_shape(const unsigned char[:, :, :, ::1] a, const float[:, :, :, ::1] b) noexcept:
    return all([a.shape[axis] == b.shape[axis] for axis in range(4)])


def maxpool_forward(const float[:, :, :, ::1] x, float[:, :, :, ::1] y, unsigned char[:, :, :, ::1] winner,
                    int size, int stride, int threads):
    """Maxima of the windows of x, and where in each window they are."""
    cdef pool_shape s = pool_shape_of(x, y, size, stride)
    demand(same_shape(winner, y), "winner must have the shape of y")
    with nogil:
        train_maxpool_forward(&s, &x[0, 0, 0, 0], &y[0, 0, 0, 0], &winner[0, 0, 0, 0], threads)


def maxpool_backward(const float[:, :, :, ::1] dy, const unsigned char[:, :, :, ::1] winner,
                     float[:, :, :, ::1] dx, int size, int stride, int threads):
    """dy, each to where its window's maximum was."""
    cdef pool_shape s = pool_shape_of(dx, dy, size, stride)
    demand(same_shape(winner, dy), "winner must have the shape of dy")
    with nogil:
        train_maxpool_backward(&s, &dy[0, 0, 0, 0], &winner[0, 0, 0, 0], &dx[0, 0, 0, 0], threads)


def avgpool_forward(const float[:, :, :, ::1] x, float[:, :, :, ::1] y, int size, int stride, int threads):
    """Means of the windows of x."""
    cdef pool_shape s = pool_shape_of(x, y, size, stride)
    with nogil:
        train_avgpool_forward(&s, &x[0, 0, 0, 0], &y[0, 0, 0, 0], threads)


def avgpool_backward(const float[:, :, :, ::1] dy, float[:, :, :, ::1] dx, int size, int stride, int threads):
    """dy / size^2 to every position of its window."""
    cdef pool_shape s = pool_shape_of(dx, dy, size, stride)
    with nogil:
        train_avgpool_backward(&s, &dy[0, 0, 0, 0], &dx[0, 0, 0, 0], threads)


def exp_log(const float[::1] x, float[::1] e, float[::1] l):
    """e = exp(x), l = log|x| as the logistic kernels compute them."""
    demand(x.shape[0] > 0 and e.shape[0] == x.shape[0] and l.shape[0] == x.shape[0],
           "arrays of different size")
    train_exp_log(x.shape[0], &x[0], &e[0], &l[0])


cdef logistic_grid logistic_grid_of(grid) except *:
    cdef double alpha, sigma
    cdef int n_min, n_max
    alpha, sigma, n_min, n_max = grid
    demand(alpha > 0 and 1 / 32. <= alpha / sigma <= 32 and 0 < n_max - n_min < 256,
           f"the kernels take no logistic grid of step {alpha}, noise {sigma}, codes {n_min}..{n_max}")
    return logistic_grid(alpha=alpha, sigma=sigma, n_min=n_min, n_max=n_max)


def logistic_round(grid, const float[::1] x, float[::1] y, int threads):
    """y = the levels of (alpha, sigma, n_min, n_max) nearest to x."""
    cdef logistic_grid g = logistic_grid_of(grid)
    demand(x.shape[0] > 0 and y.shape[0] == x.shape[0], "arrays of different size")
    with nogil:
        train_logistic_round(&g, x.shape[0], &x[0], &y[0], threads)


def logistic_full(grid, bint normalize, const float[::1] dy, const float[::1] x, float[::1] dx, int threads):
    """dx of the rule "full"; returns (dalpha, dsigma)."""
    cdef logistic_grid g = logistic_grid_of(grid)
    cdef double sums[2]
    cdef int failed
    demand(x.shape[0] > 0 and dy.shape[0] == x.shape[0] and dx.shape[0] == x.shape[0],
           "arrays of different size")
    with nogil:
        failed = train_logistic_full(&g, normalize, x.shape[0], &dy[0], &x[0], &dx[0], sums, threads)
    checked(failed)
    return sums[0], sums[1]


def logistic_gated(grid, intervals, int gates, const float[::1] dy, const float[::1] x, n,
                   float[::1] dx, int threads):
    """dx of the rule "imax" for the chosen codes n, or the nearest where n is None.

    intervals: [(gate or -1, weight, first code, last code)]. Returns (dalpha, dsigma, one per gate).
    """
    cdef logistic_grid g = logistic_grid_of(grid)
    cdef const float[::1] codes = x if n is None else n
    cdef const float *chosen = NULL
    cdef gated_intervals gated
    cdef double sums[2 + MOST_GATES]
    cdef int failed, k
    demand(x.shape[0] > 0 and dy.shape[0] == x.shape[0] and dx.shape[0] == x.shape[0]
           and codes.shape[0] == x.shape[0], "arrays of different size")
    if n is not None:
        chosen = &codes[0]
    demand(len(intervals) <= MOST_INTERVALS and 0 <= gates <= MOST_GATES, "more gates than the kernels take")
    gated.intervals, gated.gates = <int>len(intervals), gates
    for k, (gate, weight, first, last) in enumerate(intervals):
        demand(-1 <= gate < gates and weight >= 0 and first <= last, f"{intervals[k]} is no gated interval")
        gated.gate[k], gated.weight[k], gated.first[k], gated.last[k] = gate, weight, first, last
    with nogil:
        failed = train_logistic_gated(&g, &gated, x.shape[0], &dy[0], &x[0], chosen, &dx[0], sums, threads)
    checked(failed)
    return tuple([sums[k] for k in range(2 + gates)])


cdef relaxation relaxation_of(settings) except *:
    levels, local, hard, tau = settings
    demand(0 < levels <= MOST_LEVELS and tau > 0, f"the kernels take 1..{MOST_LEVELS} levels, not {levels}")
    return relaxation(levels=levels, local=local, hard=hard, tau=tau)


def logistic_sample(grid, settings, const float[::1] x, const uint32_t[:, ::1] noise, float[::1] y,
                    int threads):
    """y = relaxed samples; settings are (levels, local, hard, tau), noise holds random bits (levels, n)."""
    cdef logistic_grid g = logistic_grid_of(grid)
    cdef relaxation r = relaxation_of(settings)
    demand(x.shape[0] > 0 and y.shape[0] == x.shape[0] and noise.shape[0] == r.levels
           and noise.shape[1] == x.shape[0], "arrays of different size")
    with nogil:
        train_logistic_sample(&g, &r, x.shape[0], &x[0], &noise[0, 0], &y[0], threads)


def logistic_sample_slopes(grid, settings, const float[::1] dy, const float[::1] x,
                           const uint32_t[:, ::1] noise, float[::1] dx, int threads):
    """dx of the same samples; returns (dalpha, dsigma)."""
    cdef logistic_grid g = logistic_grid_of(grid)
    cdef relaxation r = relaxation_of(settings)
    cdef double sums[2]
    cdef int failed
    demand(x.shape[0] > 0 and dy.shape[0] == x.shape[0] and dx.shape[0] == x.shape[0]
           and noise.shape[0] == r.levels and noise.shape[1] == x.shape[0], "arrays of different size")
    with nogil:
        failed = train_logistic_sample_slopes(&g, &r, x.shape[0], &dy[0], &x[0], &noise[0, 0], &dx[0], sums,
                                              threads)
    checked(failed)
    return sums[0], sums[1]
