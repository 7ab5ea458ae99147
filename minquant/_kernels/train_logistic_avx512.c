/* The logistic grid for AVX-512. */
#if defined(__x86_64__)
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f"))), apply_to = function)
#else
#pragma GCC target("avx512f")
#endif
#define TRAIN_AVX512
#include "train_logistic_tile.h"
#include "train_logistic_sample.h"
const logistic_isa logistic_isa_avx512 = {"avx512", exp_log, round_block, zeros,
                                          full,     gated,   sample,      sample_slopes};
#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
