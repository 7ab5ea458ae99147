/* Convolution micro-kernels for the base line of the target: SSE2, NEON or plain C. */
#include "train_conv_tile.h"
const conv_isa conv_isa_generic = {"generic", LANES, pack, correlate, correlate_dw};
