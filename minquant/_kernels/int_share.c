/* Shares tasks among threads. */
#include "int_isa.h"
#ifdef _OPENMP
#include <omp.h>
#else
static int omp_get_thread_num(void) { return 0; }
#endif

int int_share(int tasks, int threads, int_job *run, const void *context)
{
    int failed = 0;
    if (threads <= 1) { /* not by OpenMP: its team of one takes as long as a product of 100000 terms */
        for (int i = 0; i < tasks; i++)
            failed |= run(context, i, 0);
        return failed;
    }
#pragma omp parallel for num_threads(threads) schedule(dynamic) reduction(| : failed)
    for (int i = 0; i < tasks; i++)
        failed |= run(context, i, omp_get_thread_num());
    return failed;
}
