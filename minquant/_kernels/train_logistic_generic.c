/* The logistic grid for the base line of the target: SSE2, NEON or plain C. */
#include "train_logistic_tile.h"
#include "train_logistic_sample.h"
const logistic_isa logistic_isa_generic = {"generic", exp_log, round_block, zeros,
                                           full,      gated,   sample,      sample_slopes};
