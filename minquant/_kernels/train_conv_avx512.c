/* Convolution micro-kernels for AVX-512. */
#if defined(__x86_64__)
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f"))), apply_to = function)
#else
#pragma GCC target("avx512f")
#endif
#define TRAIN_AVX512
#include "train_conv_tile.h"
const conv_isa conv_isa_avx512 = {"avx512", LANES, pack, correlate, correlate_dw};
#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
