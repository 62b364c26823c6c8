/* A pool of worker threads for loops over tasks.
 *
 * Why not OpenMP (measured in docs/design.md): its barrier waits for every thread of the team, also for one that the
 * system has not scheduled yet, and its threads spin between regions, on cores that the matrix product between two
 * activations needs. Here the caller takes tasks like any worker and waits only for workers that hold one; a worker
 * that comes late finds nothing left. One pool for the process: a caller that finds it busy runs its tasks itself,
 * so a process never runs more workers than it was told. A forked child starts with an empty pool of its own.
 *
 * Without POSIX threads and C11 atomics tasks run in the calling thread. */
#ifndef FASTACT_POOL_H
#define FASTACT_POOL_H

#include <stddef.h>
#include <stdint.h>

typedef void (*fastact_task)(void *context, ptrdiff_t index);

#if defined(__unix__) || defined(__APPLE__)
#define FASTACT_THREADS 1

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <time.h>

#define FASTACT_MAX_THREADS 256

/* Each thread has a share of the tasks, the same one at every job, so that it finds in its cache what it left there
 * (measured: 1.5 times the speed at 2^18 elements against one shared counter), and takes of the others' when done. */
typedef struct {
    atomic_ptrdiff_t next;
    ptrdiff_t end;
    char padding[64 - 2 * sizeof(ptrdiff_t)]; /* one cache line each */
} fastact_share;

static struct {
    /* the job; written by the owner of `busy` while `open` is 0 and `inside` is 0 */
    fastact_task task;
    void *context;
    int threads;
    fastact_share shares[FASTACT_MAX_THREADS];
    atomic_int open;   /* workers may join */
    atomic_int inside; /* workers that joined and have not left */
    atomic_flag busy;
    atomic_uint epoch; /* one more with each job */
    atomic_int parked;
    atomic_int workers;
    atomic_long spin_ns;
    pthread_mutex_t mutex;
    pthread_cond_t wake;
} fastact_pool = {.busy = ATOMIC_FLAG_INIT,
                  /* measured: a wake-up by the system takes 20-60 us on a virtual machine, so a worker first looks */
                  .spin_ns = 50000,
                  .mutex = PTHREAD_MUTEX_INITIALIZER,
                  .wake = PTHREAD_COND_INITIALIZER};

static inline void fastact_pause(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ __volatile__("yield");
#endif
}

static inline int64_t fastact_now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static inline void fastact_take_tasks(int me)
{
    for (int k = 0; k < fastact_pool.threads; k++) {
        fastact_share *share = &fastact_pool.shares[(me + k) % fastact_pool.threads];
        ptrdiff_t i;
        while ((i = atomic_fetch_add_explicit(&share->next, 1, memory_order_relaxed)) < share->end)
            fastact_pool.task(fastact_pool.context, i);
    }
}

static void *fastact_worker(void *number)
{
    int me = (int)(intptr_t)number;
    unsigned seen = 0; /* whatever the epoch is: at worst one look at a job that is over */
    for (;;) {
        unsigned now;
        int64_t deadline = 0;
        int looks = 0;
        while ((now = atomic_load(&fastact_pool.epoch)) == seen) {
            fastact_pause();
            if ((++looks & 63) != 0)
                continue;
            int64_t t = fastact_now_ns();
            if (deadline == 0)
                deadline = t + atomic_load_explicit(&fastact_pool.spin_ns, memory_order_relaxed);
            else if (t >= deadline) {
                pthread_mutex_lock(&fastact_pool.mutex);
                atomic_fetch_add(&fastact_pool.parked, 1);
                while (atomic_load(&fastact_pool.epoch) == seen)
                    pthread_cond_wait(&fastact_pool.wake, &fastact_pool.mutex);
                atomic_fetch_sub(&fastact_pool.parked, 1);
                pthread_mutex_unlock(&fastact_pool.mutex);
            }
        }
        seen = now;
        /* `inside` first, then `open`: the owner closes, then reads `inside`, so one of the two sees the other */
        atomic_fetch_add(&fastact_pool.inside, 1);
        if (atomic_load(&fastact_pool.open) && me < fastact_pool.threads)
            fastact_take_tasks(me);
        atomic_fetch_sub(&fastact_pool.inside, 1);
    }
    return NULL;
}

static void fastact_pool_after_fork(void)
{
    /* the parent's workers do not exist here */
    atomic_flag_clear(&fastact_pool.busy);
    atomic_store(&fastact_pool.open, 0);
    atomic_store(&fastact_pool.inside, 0);
    atomic_store(&fastact_pool.parked, 0);
    atomic_store(&fastact_pool.workers, 0);
    pthread_mutex_init(&fastact_pool.mutex, NULL);
    pthread_cond_init(&fastact_pool.wake, NULL);
}

static void fastact_pool_init(void)
{
    static int done = 0;
    if (!done) {
        pthread_atfork(NULL, NULL, fastact_pool_after_fork);
        done = 1;
    }
}

static void fastact_pool_grow(int workers)
{
    sigset_t all, before;
    pthread_attr_t attributes;
    if (atomic_load(&fastact_pool.workers) >= workers)
        return;
    /* signals stay with the threads of the program */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    pthread_attr_init(&attributes);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    while (atomic_load(&fastact_pool.workers) < workers) {
        pthread_t thread;
        intptr_t number = atomic_load(&fastact_pool.workers) + 1;
        if (pthread_create(&thread, &attributes, fastact_worker, (void *)number) != 0)
            break; /* the system has no more: run with those there are */
        atomic_fetch_add(&fastact_pool.workers, 1);
    }
    pthread_attr_destroy(&attributes);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

/* Run task(context, 0 … count-1) on up to `threads` threads, the caller among them; returns how many were asked. */
static int fastact_parallel_for(fastact_task task, void *context, ptrdiff_t count, int threads)
{
    if (threads > count)
        threads = (int)count;
    if (threads > FASTACT_MAX_THREADS)
        threads = FASTACT_MAX_THREADS;
    if (threads <= 1 || atomic_flag_test_and_set(&fastact_pool.busy)) {
        for (ptrdiff_t i = 0; i < count; i++)
            task(context, i);
        return 1;
    }
    fastact_pool_grow(threads - 1);
    fastact_pool.task = task;
    fastact_pool.context = context;
    fastact_pool.threads = threads;
    for (int t = 0; t < threads; t++) {
        atomic_store_explicit(&fastact_pool.shares[t].next, count * t / threads, memory_order_relaxed);
        fastact_pool.shares[t].end = count * (t + 1) / threads;
    }
    atomic_store(&fastact_pool.open, 1);
    atomic_fetch_add(&fastact_pool.epoch, 1);
    if (atomic_load(&fastact_pool.parked) > 0) {
        pthread_mutex_lock(&fastact_pool.mutex);
        pthread_cond_broadcast(&fastact_pool.wake);
        pthread_mutex_unlock(&fastact_pool.mutex);
    }
    fastact_take_tasks(0);
    atomic_store(&fastact_pool.open, 0);
    for (int looks = 0; atomic_load(&fastact_pool.inside) > 0; looks++) {
        if (looks < 4096)
            fastact_pause();
        else
            sched_yield();
    }
    atomic_flag_clear(&fastact_pool.busy);
    return threads;
}

/* Whether a call comes within 100 us of the one before, or the workers look for work already: then threads pay early.
 * To wake one that sleeps costs the caller 10 us and more. */
static int fastact_pool_awake(void)
{
    static atomic_llong last;
    long long now = fastact_now_ns();
    long long before = atomic_exchange_explicit(&last, now, memory_order_relaxed);
    return now - before < 100000 || (atomic_load(&fastact_pool.workers) > 0 && atomic_load(&fastact_pool.parked) == 0);
}

static void fastact_pool_set_spin(long ns) { atomic_store(&fastact_pool.spin_ns, ns); }
static int fastact_pool_workers(void) { return atomic_load(&fastact_pool.workers); }

#else
#define FASTACT_THREADS 0

static void fastact_pool_init(void) {}
static int fastact_pool_awake(void) { return 0; }
static void fastact_pool_set_spin(long ns) { (void)ns; }
static int fastact_pool_workers(void) { return 0; }
static int fastact_parallel_for(fastact_task task, void *context, ptrdiff_t count, int threads)
{
    (void)threads;
    for (ptrdiff_t i = 0; i < count; i++)
        task(context, i);
    return 1;
}
#endif

#endif
