/* A loop over independent pieces of work on several threads: by OpenMP, or where the compiler has none (Apple's clang)
 * by threads that are made for the call, which costs some ten microseconds each. */
#ifndef MMBERT_THREADS_H
#define MMBERT_THREADS_H

#include <stdint.h>

/* Piece ``index``, on a thread that has number ``thread`` and shares it with no other. */
typedef void Work(const void *context, int64_t index, int64_t thread);

#ifdef _OPENMP
#include <omp.h>

static void share(Work *work, const void *context, int64_t count, int64_t threads) {
#pragma omp parallel for schedule(dynamic) num_threads((int)threads)
    for (int64_t i = 0; i < count; i++) work(context, i, omp_get_thread_num());
}

#else
#include <pthread.h>

enum { MOST_THREADS = 256 };

typedef struct {
    Work *work;
    const void *context;
    int64_t count, next, numbers;
} Shared;

static void *take(void *given) {
    Shared *s = given;
    const int64_t thread = __atomic_fetch_add(&s->numbers, 1, __ATOMIC_RELAXED);
    for (int64_t i; (i = __atomic_fetch_add(&s->next, 1, __ATOMIC_RELAXED)) < s->count;) s->work(s->context, i, thread);
    return NULL;
}

static void share(Work *work, const void *context, int64_t count, int64_t threads) {
    Shared s = {work, context, count, 0, 0};
    pthread_t made[MOST_THREADS];
    int64_t more = 0;
    const int64_t most = threads < count ? threads : count;
    while (more + 1 < most && more < MOST_THREADS && !pthread_create(made + more, NULL, take, &s)) more++;
    take(&s); /* a thread that could not be made is not missed */
    for (int64_t i = 0; i < more; i++) pthread_join(made[i], NULL);
}
#endif

#endif
