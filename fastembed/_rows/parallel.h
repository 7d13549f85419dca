/* parallel.h: the few words of OpenMP and atomics that Cython does not have. Without OpenMP everything runs on one
 * thread. May include: nothing else of the package. */
#ifndef FE_PARALLEL_H
#define FE_PARALLEL_H

#include <stdint.h>

#ifdef _OPENMP
#include <omp.h>
enum { FE_OPENMP = _OPENMP };
/* Waits for the whole team; to be called by every thread of the enclosing parallel region. */
static inline void fe_barrier(void)
{
#pragma omp barrier
}
static inline int fe_team_size(void) { return omp_get_num_threads(); }
/* What the runtime would use by itself: what omp_set_num_threads, and so threadpoolctl, has said in this thread. */
static inline int fe_max_threads(void) { return omp_get_max_threads(); }
#else
enum { FE_OPENMP = 0 };
static inline void fe_barrier(void) {}
static inline int fe_team_size(void) { return 1; }
static inline int fe_max_threads(void) { return INT32_MAX; } /* nobody limits them */
#endif

/* Lets the idle threads of the calling thread's team end, so that a child made by fork() starts with none. False where
 * the runtime has no such thing: LLVM's needs none, Windows has no fork. */
static inline int fe_end_team(void)
{
#if defined(_OPENMP) && (_OPENMP >= 201811 || (defined(__GNUC__) && !defined(__clang__) && __GNUC__ >= 9))
    return omp_pause_resource_all(omp_pause_soft) == 0;
#else
    return 0;
#endif
}

/* A number that several threads add to; returns what it was before. */
static inline int64_t fe_add(int64_t *total, int64_t count)
{
#if defined(__GNUC__)
    return __atomic_fetch_add(total, count, __ATOMIC_RELAXED);
#else
    extern long long _InterlockedExchangeAdd64(long long volatile *, long long);
    return _InterlockedExchangeAdd64((long long volatile *)total, count);
#endif
}

/* 0, 1, 2, ... each given to one caller. */
static inline int64_t fe_next(int64_t *counter) { return fe_add(counter, 1); }

/* A flag that several threads may raise. */
static inline void fe_raise(int32_t *flag)
{
#if defined(__GNUC__)
    __atomic_store_n(flag, 1, __ATOMIC_RELAXED);
#else
    *(int32_t volatile *)flag = 1;
#endif
}

static inline int32_t fe_load(const int32_t *number)
{
#if defined(__GNUC__)
    return __atomic_load_n(number, __ATOMIC_RELAXED);
#else
    return *(const int32_t volatile *)number;
#endif
}

#endif
