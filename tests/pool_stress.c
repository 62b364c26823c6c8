/* Stress of the thread pool, for ThreadSanitizer: `python tools/sanitize.py thread`.
 *
 * Several callers at once run jobs of all sizes on 1 to MOST threads. Tasks read what their caller wrote before the job
 * and write without atomics: a call that does not order them with its own memory is a data race. Meanwhile the time
 * that workers look for work changes, callers sleep until workers are parked, and children are forked, idle and in the
 * middle of jobs. Counts of tasks must be exactly one each. */
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "pool.h"

#if !FASTACT_THREADS
#error "no threads here: nothing to test"
#endif

#define CALLERS 4
#define MOST 12 /* threads of a job */
#define LARGEST 3000

typedef struct {
    int ran[LARGEST];
    int salt;
    unsigned seed;
    int jobs;
    int most;
} caller_state;

static atomic_int failures;
static atomic_int shared_jobs; /* that ran on more than one thread */

static void fail(const char *what, long got, long wanted)
{
    atomic_fetch_add(&failures, 1);
    fprintf(stderr, "%s: %ld, not %ld\n", what, got, wanted);
}

static unsigned next(unsigned *seed)
{
    *seed = *seed * 1664525u + 1013904223u;
    return *seed >> 8;
}

static void task(void *context, ptrdiff_t index)
{
    caller_state *state = context;
    state->ran[index] += state->salt;
    if (index % 61 == 7)
        sched_yield();
}

static void one_job(caller_state *state)
{
    int sizes[] = {0, 1, 2, 3, (int)(next(&state->seed) % 40), (int)(next(&state->seed) % (LARGEST + 1))};
    int count = sizes[next(&state->seed) % 6];
    int threads = 1 + (int)(next(&state->seed) % (unsigned)state->most);
    int used;
    for (int i = 0; i < count; i++)
        state->ran[i] = 0;
    state->salt = 1 + (int)(next(&state->seed) % 1000);
    used = fastact_parallel_for(task, state, count, threads);
    for (int i = 0; i < count; i++)
        if (state->ran[i] != state->salt)
            fail("sum of a task", state->ran[i], state->salt);
    if (used < 1 || used > threads)
        fail("threads of a job", used, threads);
    if (used > 1)
        atomic_fetch_add(&shared_jobs, 1);
}

static void *caller(void *state_)
{
    caller_state *state = state_;
    for (int job = 0; job < state->jobs; job++) {
        one_job(state);
        fastact_pool_awake();
        if (job % 16 == 0)
            fastact_pool_set_spin((long)(next(&state->seed) % 3) * 25000);
        if (job % 64 == 0)
            usleep(300); /* long enough to be parked */
    }
    return NULL;
}

static caller_state states[CALLERS], own;

static void run_callers(int jobs, int most, void (*meanwhile)(void))
{
    pthread_t threads[CALLERS];
    for (int i = 0; i < CALLERS; i++) {
        states[i].seed = (unsigned)(most * 100 + i);
        states[i].jobs = jobs;
        states[i].most = most;
        if (pthread_create(&threads[i], NULL, caller, &states[i]) != 0)
            abort();
    }
    if (meanwhile)
        meanwhile();
    for (int i = 0; i < CALLERS; i++)
        pthread_join(threads[i], NULL);
    if (fastact_pool_workers() >= most)
        fail("workers", fastact_pool_workers(), most - 1);
}

static void meet(void *arrived_, ptrdiff_t index)
{
    atomic_int *arrived = arrived_;
    int64_t end = fastact_now_ns() + 10 * (int64_t)1000000000;
    (void)index;
    atomic_fetch_add(arrived, 1);
    while (atomic_load(arrived) < 3 && fastact_now_ns() < end)
        sched_yield();
    if (atomic_load(arrived) < 3)
        fail("threads that met", atomic_load(arrived), 3);
}

/* tasks that wait for each other end only if sleeping workers are woken; the pool must have no other caller */
static void wake_sleepers(void)
{
    for (int round = 0; round < 20 && atomic_load(&failures) == 0; round++) {
        atomic_int arrived = 0;
        fastact_pool_set_spin(round % 2 * 100000);
        usleep(2000);
        if (fastact_parallel_for(meet, &arrived, 3, 3) != 3)
            fail("threads asked to meet", 1, 3);
    }
}

static void fork_and_work(void)
{
    for (int child = 0; child < 4; child++) {
        int status;
        pid_t pid = fork();
        if (pid == 0) {
            alarm(30);
            if (fastact_pool_workers() != 0)
                fail("workers of a child", fastact_pool_workers(), 0);
            own.most = MOST;
            for (int job = 0; job < 200; job++)
                one_job(&own);
            if (fastact_pool_workers() == 0)
                fail("workers of a child at its end", 0, MOST - 1);
            _exit(atomic_load(&failures) != 0);
        }
        if (pid < 0 || waitpid(pid, &status, 0) != pid || status != 0)
            fail("status of a child", pid < 0 ? pid : status, 0);
    }
}

int main(void)
{
    fastact_pool_init();
    for (int most = 2; most <= MOST; most += 2) /* the pool grows between jobs */
        run_callers(600, most, NULL);
    wake_sleepers();
    fork_and_work();
    run_callers(1500, MOST, fork_and_work);
    if (fastact_pool_workers() != MOST - 1)
        fail("workers at the end", fastact_pool_workers(), MOST - 1);
    if (atomic_load(&shared_jobs) < 100)
        fail("jobs on several threads", atomic_load(&shared_jobs), 100);
    printf("%d jobs on several threads, %d failures\n", atomic_load(&shared_jobs), atomic_load(&failures));
    return atomic_load(&failures) != 0;
}
