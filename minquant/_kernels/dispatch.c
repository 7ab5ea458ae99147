/* Chooses among the instruction sets; computes nothing. */
#define _DEFAULT_SOURCE /* declares syscall */
#include "int_isa.h"
#include <string.h>
#ifdef _OPENMP
#include <omp.h>
#endif

#if defined(__x86_64__) || defined(__i386__)
#include <cpuid.h>
#define CPU_HAS(feature) __builtin_cpu_supports(feature)
/* Compilers learned this name late: leaf 7.1, EAX bit 4. AVX2 says that the system saves the registers. */
static int has_avxvnni(void)
{
    unsigned a, b, c, d;
    return CPU_HAS("avx2") && __get_cpuid_count(7, 1, &a, &b, &c, &d) && a >> 4 & 1;
}
static int has_avx512vnni(void)
{
    return CPU_HAS("avx512f") && CPU_HAS("avx512bw") && CPU_HAS("avx512dq") && CPU_HAS("avx512vl") &&
           CPU_HAS("avx512vnni");
}
#else
#define CPU_HAS(feature) 0
static int has_avxvnni(void) { return 0; }
static int has_avx512vnni(void) { return 0; }
#endif

#if defined(__x86_64__) && defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#define REQUEST_STATE 0x1023 /* ARCH_REQ_XCOMP_PERM of asm/prctl.h */
#define TILE_DATA 18
/* Leaf 7, EDX bits 24 (tiles) and 25 (int8). The registers are so large that Linux gives them on request, for
 * the whole process; it refuses where a signal handler's stack is too small for them. */
static int ask_for_amx(void)
{
    unsigned a, b, c, d;
    return has_avx512vnni() && __get_cpuid_count(7, 0, &a, &b, &c, &d) && (d >> 24 & 3) == 3 &&
           !syscall(SYS_arch_prctl, REQUEST_STATE, TILE_DATA);
}
static int has_amx(void)
{
    static int answer; /* 0: not asked, 1: no, 2: yes */
    if (!__atomic_load_n(&answer, __ATOMIC_RELAXED))
        __atomic_store_n(&answer, 1 + ask_for_amx(), __ATOMIC_RELAXED);
    return __atomic_load_n(&answer, __ATOMIC_RELAXED) - 1;
}
#else
static int has_amx(void) { return 0; }
#endif

#if defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#define HAS_DOTPROD (getauxval(AT_HWCAP) >> 20 & 1)
#define HAS_I8MM (getauxval(AT_HWCAP2) >> 13 & 1)
#elif defined(__aarch64__) && defined(__APPLE__)
#include <sys/sysctl.h>
static int system_has(const char *name)
{
    int value = 0;
    size_t size = sizeof value;
    return !sysctlbyname(name, &value, &size, NULL, 0) && value;
}
#define HAS_DOTPROD system_has("hw.optional.arm.FEAT_DotProd")
#define HAS_I8MM system_has("hw.optional.arm.FEAT_I8MM")
#else
#define HAS_DOTPROD 0
#define HAS_I8MM 0
#endif

/* Best first. */
const int_isa *int_isa_candidate(int index, int *present)
{
    switch (index) {
    case 0:
        *present = has_amx();
        return int_isa_amx;
    case 1:
        *present = has_avx512vnni();
        return int_isa_avx512vnni;
    case 2:
        *present = has_avxvnni();
        return int_isa_avxvnni;
    case 3:
        *present = CPU_HAS("avx2") != 0;
        return int_isa_avx2;
    case 4:
        *present = HAS_I8MM;
        return int_isa_neon_i8mm;
    case 5:
        *present = HAS_DOTPROD;
        return int_isa_neon_dotprod;
    case 6:
        *present = 1; /* part of every 64-bit ARM processor */
        return int_isa_neon;
    default:
        *present = 1;
        return int_isa_generic;
    }
}

const int_isa *int_isa_at(int index)
{
    for (int i = 0; i < INT_CANDIDATES; i++) {
        int present;
        const int_isa *isa = int_isa_candidate(i, &present);
        if (isa && present && index-- == 0)
            return isa;
    }
    return NULL;
}

const int_isa *int_isa_find(const char *name)
{
    const int_isa *isa;
    for (int i = 0; (isa = int_isa_at(i)); i++)
        if (!strcmp(isa->name, name))
            return isa;
    return NULL;
}

const char *int_isa_name(const int_isa *isa) { return isa->name; }

int int_isa_rate(const int_isa *isa) { return isa->rate; }

int int_team(int threads, int tasks)
{
#ifdef _OPENMP
    return omp_in_parallel() ? 1 : int_min(threads, tasks);
#else
    (void)threads;
    return int_min(1, tasks);
#endif
}

int int_has_openmp(void)
{
#ifdef _OPENMP
    return 1;
#else
    return 0;
#endif
}
