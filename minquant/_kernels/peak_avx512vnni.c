/* The dot product of AVX-512 VNNI; peak_vnni.h holds the loop. */
#include "peak.h"
#if defined(__AVX512VNNI__)
#define VECTOR 64
#include "peak_vnni.h"
peak_function *const peak_avx512vnni = run;
#else
peak_function *const peak_avx512vnni = 0;
#endif
