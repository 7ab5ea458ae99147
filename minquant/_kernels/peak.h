/* What the machine can do at most, for the benchmarks: multiply-adds that wait for nothing, reads in order.
 */
#ifndef MINQUANT_PEAK_H
#define MINQUANT_PEAK_H
#include "int.h"

/* Executes about a million 8-bit multiply-add instructions of an instruction set in registers; returns how
 * many multiply-adds they were, 0 where it has no such loop. */
uint64_t peak_products(const int_isa *isa);

/* Reads `bytes` bytes, a multiple of 128. */
uint64_t peak_read(const uint64_t *from, size_t bytes);

/* Independent sums, more than latency times instructions a cycle; as variables, which stay in registers. */
#define PEAK_CHAINS 12
#define PEAK_EACH(DO) DO(s0) DO(s1) DO(s2) DO(s3) DO(s4) DO(s5) DO(s6) DO(s7) DO(s8) DO(s9) DO(s10) DO(s11)
#define PEAK_STEPS 100000

typedef uint64_t peak_function(void);
extern peak_function *const peak_amx, *const peak_avx512vnni, *const peak_avxvnni, *const peak_avx2;

#endif
