/* What the driver (train_logistic.c) asks of each instruction set: the logistic grid on `count` floats. */
#ifndef MINQUANT_TRAIN_LOGISTIC_H
#define MINQUANT_TRAIN_LOGISTIC_H

#include "train.h"

/* Work on `count` elements, for the function of train.h of the same name; sums are added to. */
typedef struct {
    const char *name;
    void (*exp_log)(int count, const float *x, float *exponential, float *logarithm);
    void (*round)(const logistic_grid *g, int count, const float *x, float *y);
    /* dx = dy slope; returns the sum of dy over the x that are 0. */
    double (*zeros)(int count, const float *dy, const float *x, float slope, float *dx);
    void (*full)(const logistic_grid *g, int normalize, int count, const float *dy, const float *x, float *dx,
                 double *sums);
    void (*gated)(const logistic_grid *g, const gated_intervals *gated, int count, const float *dy,
                  const float *x, const float *n, float *dx, double *sums);
    void (*sample)(const logistic_grid *g, const relaxation *r, int count, const float *x,
                   const uint32_t *noise, ptrdiff_t pitch, float *y);
    void (*sample_slopes)(const logistic_grid *g, const relaxation *r, int count, const float *dy,
                          const float *x, const uint32_t *noise, ptrdiff_t pitch, float *dx, double *sums);
} logistic_isa;

extern const logistic_isa logistic_isa_generic, logistic_isa_avx2, logistic_isa_avx512;

#endif
