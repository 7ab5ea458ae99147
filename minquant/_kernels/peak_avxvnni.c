/* The dot product of AVX-VNNI; peak_vnni.h holds the loop. */
#include "peak.h"
#if defined(__AVXVNNI__)
#define VECTOR 32
#include "peak_vnni.h"
peak_function *const peak_avxvnni = run;
#else
peak_function *const peak_avxvnni = 0;
#endif
