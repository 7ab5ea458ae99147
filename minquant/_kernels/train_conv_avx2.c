/* Convolution micro-kernels for AVX2 with FMA. */
#if defined(__x86_64__)
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC target("avx2,fma")
#endif
#define TRAIN_AVX2
#include "train_conv_tile.h"
const conv_isa conv_isa_avx2 = {"avx2", LANES, pack, correlate, correlate_dw};
#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
