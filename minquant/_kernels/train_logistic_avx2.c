/* The logistic grid for AVX2 with FMA. */
#if defined(__x86_64__)
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC target("avx2,fma")
#endif
#define TRAIN_AVX2
#include "train_logistic_tile.h"
#include "train_logistic_sample.h"
const logistic_isa logistic_isa_avx2 = {"avx2", exp_log, round_block, zeros,
                                        full,   gated,   sample,      sample_slopes};
#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
