/* Helper threads that share the work of one large kernel with the thread that calls it.
 *
 * A job lies on its caller's stack. Its tasks are taken one by one from an atomic counter, by the caller and by every
 * helper that comes by, so a helper that never gets a processor costs nothing: the caller does all of it. What the
 * caller has to wait for at the end is at most one task per helper.
 *
 * Included by worker_pool.pyx alone: the state below exists once in a process.
 */
#ifndef TRT_WORKER_POOL_H
#define TRT_WORKER_POOL_H

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

typedef void (*trt_task_fn)(void *context, ptrdiff_t index);

enum { TRT_MAX_HELPERS = 63 };

/* A helper that has just worked looks out for the next job for this long before it sleeps: kernels of one step follow
 * each other closely, and waking a thread takes as long as many a kernel's share. */
#define TRT_HELPER_SPIN_NS 40000
/* The caller looks this long for the last helpers to finish. After that it gives its processor away, perhaps to the
 * very helper that it waits for. */
#define TRT_CALLER_SPIN_NS 20000

/* A helper is behind the caller by a task at most. One that is behind by this long, and by several tasks, has lost its
 * processor to somebody else, and every further job would wait for it again: the pool then rests, that is, callers work
 * alone, for a multiple of the time that was lost. The multiple doubles while each trial after a rest ends like that. */
#define TRT_SLUMP_NS 400000
#define TRT_SLUMP_TASKS 4
#define TRT_REST_FACTOR 8
#define TRT_MAX_SLUMPS 3
#define TRT_MAX_REST_NS 400000000LL

typedef struct trt_job {
    trt_task_fn run;
    void *context;
    ptrdiff_t num_tasks;
    const int *stop;     /* when this is not 0 any more, tasks that have not begun are left out; NULL: never */
    ptrdiff_t next_task; /* atomic */
    int helpers;         /* at work here; changed under the mutex, read without it */
    struct trt_job *next;
} trt_job;

static struct {
    pthread_mutex_t mutex;
    pthread_cond_t work; /* there is a job, or the end has come */
    pthread_cond_t done; /* a helper has left a job */
    trt_job *jobs;        /* those that are open, the latest first */
    unsigned epoch;      /* atomic; counts the jobs, for helpers that look out */
    unsigned dismissals; /* atomic; counts the ends of steps: nobody looks out beyond one */
    long long begun;     /* atomic; counts the tasks that have begun */
    int parked;          /* helpers asleep in `work` */
    int num_threads;
    int limit;           /* helpers wanted; -1: not yet decided */
    int stopping;
    int slumps;          /* atomic; of the last shared jobs, in a row; at most TRT_MAX_SLUMPS */
    long long rest_until; /* atomic; on the clock of trt_pool_now_ns */
    pthread_t threads[TRT_MAX_HELPERS];
} trt_pool = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, PTHREAD_COND_INITIALIZER, NULL, 0, 0, 0, 0, 0, -1, 0, 0, 0, {0}};

static inline long long trt_pool_now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000LL + now.tv_nsec;
}

static inline void trt_pool_pause(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ __volatile__("yield");
#endif
}

static int trt_pool_default_limit(void) {
    long processors = 0;
#ifdef __linux__
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0)
        processors = CPU_COUNT(&set);
#endif
    if (processors < 1)
        processors = sysconf(_SC_NPROCESSORS_ONLN);
    processors -= 1; /* the caller takes part */
    return processors < 0 ? 0 : processors > TRT_MAX_HELPERS ? TRT_MAX_HELPERS : (int)processors;
}

/* Work on a job until no task is left; return how many were done here. */
static ptrdiff_t trt_job_work(trt_job *job) {
    for (ptrdiff_t done = 0;; done++) {
        ptrdiff_t task = __atomic_fetch_add(&job->next_task, 1, __ATOMIC_RELAXED);
        if (task >= job->num_tasks)
            return done;
        if (job->stop != NULL && __atomic_load_n(job->stop, __ATOMIC_RELAXED)) {
            __atomic_store_n(&job->next_task, job->num_tasks, __ATOMIC_RELAXED);
            return done;
        }
        __atomic_fetch_add(&trt_pool.begun, 1, __ATOMIC_RELAXED);
        job->run(job->context, task);
    }
}

static trt_job *trt_pool_open_job(void) {
    for (trt_job *job = trt_pool.jobs; job != NULL; job = job->next)
        if (__atomic_load_n(&job->next_task, __ATOMIC_RELAXED) < job->num_tasks)
            return job;
    return NULL;
}

/* Look out for a new job, for a while; called and left with the mutex held. */
static int trt_pool_look_out(void) {
    unsigned seen = trt_pool.epoch, dismissals = __atomic_load_n(&trt_pool.dismissals, __ATOMIC_RELAXED);
    int found = 0;
    pthread_mutex_unlock(&trt_pool.mutex);
    long long until = trt_pool_now_ns() + TRT_HELPER_SPIN_NS;
    do {
        for (int turn = 0; turn < 32 && !found; turn++) {
            trt_pool_pause();
            found = __atomic_load_n(&trt_pool.epoch, __ATOMIC_ACQUIRE) != seen ||
                    __atomic_load_n(&trt_pool.dismissals, __ATOMIC_RELAXED) != dismissals;
        }
    } while (!found && trt_pool_now_ns() < until);
    pthread_mutex_lock(&trt_pool.mutex);
    return trt_pool.epoch != seen;
}

static void *trt_pool_help(void *unused) {
    int worked = 0;
    pthread_mutex_lock(&trt_pool.mutex);
    for (;;) {
        trt_job *job = trt_pool_open_job();
        if (job != NULL) {
            job->helpers++;
            pthread_mutex_unlock(&trt_pool.mutex);
            trt_job_work(job);
            pthread_mutex_lock(&trt_pool.mutex);
            /* The caller may see this and return: the job is not touched after it. */
            if (__atomic_sub_fetch(&job->helpers, 1, __ATOMIC_RELEASE) == 0)
                pthread_cond_broadcast(&trt_pool.done);
            worked = 1;
        } else if (trt_pool.stopping) {
            break;
        } else if (worked) {
            worked = trt_pool_look_out();
        } else {
            trt_pool.parked++;
            pthread_cond_wait(&trt_pool.work, &trt_pool.mutex);
            trt_pool.parked--;
        }
    }
    pthread_mutex_unlock(&trt_pool.mutex);
    return unused;
}

/* Start the helpers that are missing; with the mutex held. A thread that cannot be had is done without. */
static void trt_pool_start(void) {
    sigset_t all, former;
    if (trt_pool.limit < 0)
        trt_pool.limit = trt_pool_default_limit();
    if (trt_pool.num_threads >= trt_pool.limit || trt_pool.stopping)
        return;
    /* signals are for the threads that know Python */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &former);
    while (trt_pool.num_threads < trt_pool.limit) {
        if (pthread_create(&trt_pool.threads[trt_pool.num_threads], NULL, trt_pool_help, NULL) != 0) {
            trt_pool.limit = trt_pool.num_threads;
            break;
        }
        trt_pool.num_threads++;
    }
    pthread_sigmask(SIG_SETMASK, &former, NULL);
}

/* Rest when the caller, done with `tasks` of them in `worked_ns`, had to wait this long for a helper. */
static void trt_pool_judge(ptrdiff_t tasks, long long worked_ns, long long waited_ns) {
    if (waited_ns < TRT_SLUMP_NS || waited_ns < worked_ns / (tasks ? tasks : 1) * TRT_SLUMP_TASKS) {
        __atomic_store_n(&trt_pool.slumps, 0, __ATOMIC_RELAXED);
        return;
    }
    int slumps = __atomic_load_n(&trt_pool.slumps, __ATOMIC_RELAXED);
    long long rest_ns = waited_ns * TRT_REST_FACTOR << slumps;
    __atomic_store_n(&trt_pool.slumps, slumps < TRT_MAX_SLUMPS ? slumps + 1 : slumps, __ATOMIC_RELAXED);
    if (rest_ns > TRT_MAX_REST_NS)
        rest_ns = TRT_MAX_REST_NS;
    __atomic_store_n(&trt_pool.rest_until, trt_pool_now_ns() + rest_ns, __ATOMIC_RELAXED);
}

static void trt_parallel_for(trt_task_fn run, void *context, ptrdiff_t num_tasks, const int *stop) {
    trt_job job = {run, context, num_tasks, stop, 0, 0, NULL};
    if (num_tasks <= 1 || trt_pool.limit == 0) {
        trt_job_work(&job);
        return;
    }
    long long begun = trt_pool_now_ns();
    if (begun < __atomic_load_n(&trt_pool.rest_until, __ATOMIC_RELAXED)) {
        trt_job_work(&job);
        return;
    }
    pthread_mutex_lock(&trt_pool.mutex);
    if (trt_pool.num_threads < trt_pool.limit || trt_pool.limit < 0)
        trt_pool_start();
    job.next = trt_pool.jobs;
    trt_pool.jobs = &job;
    __atomic_add_fetch(&trt_pool.epoch, 1, __ATOMIC_RELEASE);
    ptrdiff_t wakes = trt_pool.parked < num_tasks - 1 ? trt_pool.parked : num_tasks - 1;
    for (; wakes > 0; wakes--)
        pthread_cond_signal(&trt_pool.work);
    pthread_mutex_unlock(&trt_pool.mutex);

    ptrdiff_t tasks = trt_job_work(&job);
    long long finished = trt_pool_now_ns();

    pthread_mutex_lock(&trt_pool.mutex);
    trt_job **place = &trt_pool.jobs;
    while (*place != &job)
        place = &(*place)->next;
    *place = job.next;
    int helpers = job.helpers;
    pthread_mutex_unlock(&trt_pool.mutex);
    if (helpers == 0)
        return;
    long long until = finished + TRT_CALLER_SPIN_NS;
    do {
        for (int turn = 0; turn < 32; turn++) {
            if (__atomic_load_n(&job.helpers, __ATOMIC_ACQUIRE) == 0) {
                __atomic_store_n(&trt_pool.slumps, 0, __ATOMIC_RELAXED);
                return;
            }
            trt_pool_pause();
        }
    } while (trt_pool_now_ns() < until);
    pthread_mutex_lock(&trt_pool.mutex);
    while (job.helpers != 0)
        pthread_cond_wait(&trt_pool.done, &trt_pool.mutex);
    trt_pool_judge(tasks, finished - begun, trt_pool_now_ns() - finished);
    pthread_mutex_unlock(&trt_pool.mutex);
}

typedef void (*trt_range_fn)(void *context, ptrdiff_t begin, ptrdiff_t end);

typedef struct {
    trt_range_fn run;
    void *context;
    ptrdiff_t size, grain;
} trt_ranges;

static void trt_run_range(void *context, ptrdiff_t index) {
    trt_ranges *ranges = context;
    ptrdiff_t begin = index * ranges->grain;
    ptrdiff_t end = ranges->size - begin > ranges->grain ? begin + ranges->grain : ranges->size;
    ranges->run(ranges->context, begin, end);
}

static void trt_parallel_ranges(trt_range_fn run, void *context, ptrdiff_t size, ptrdiff_t grain, const int *stop) {
    trt_ranges ranges = {run, context, size, grain};
    if (size > grain)
        trt_parallel_for(trt_run_range, &ranges, (size + grain - 1) / grain, stop);
    else if (size > 0)
        run(context, 0, size);
}

/* A step has ended: helpers that look out for its next kernel need not. */
static inline void trt_pool_dismiss(void) { __atomic_fetch_add(&trt_pool.dismissals, 1, __ATOMIC_RELAXED); }

/* Let the helpers finish what they have and end; the next job starts new ones. */
static void trt_pool_stop(void) {
    pthread_t threads[TRT_MAX_HELPERS];
    int count;
    pthread_mutex_lock(&trt_pool.mutex);
    if (trt_pool.stopping) { /* somebody else does it */
        pthread_mutex_unlock(&trt_pool.mutex);
        return;
    }
    count = trt_pool.num_threads;
    memcpy(threads, trt_pool.threads, sizeof threads);
    trt_pool.stopping = 1;
    pthread_cond_broadcast(&trt_pool.work);
    pthread_mutex_unlock(&trt_pool.mutex);
    for (int index = 0; index < count; index++)
        pthread_join(threads[index], NULL);
    pthread_mutex_lock(&trt_pool.mutex);
    trt_pool.num_threads = 0;
    trt_pool.stopping = 0;
    __atomic_store_n(&trt_pool.slumps, 0, __ATOMIC_RELAXED);
    __atomic_store_n(&trt_pool.rest_until, 0, __ATOMIC_RELAXED);
    pthread_mutex_unlock(&trt_pool.mutex);
}

static void trt_pool_before_fork(void) { pthread_mutex_lock(&trt_pool.mutex); }

static void trt_pool_after_fork_in_parent(void) { pthread_mutex_unlock(&trt_pool.mutex); }

/* The child has this thread alone: no helper, and no job but one that it is itself in. */
static void trt_pool_after_fork_in_child(void) {
    pthread_mutex_init(&trt_pool.mutex, NULL);
    pthread_cond_init(&trt_pool.work, NULL);
    pthread_cond_init(&trt_pool.done, NULL);
    trt_pool.jobs = NULL;
    trt_pool.parked = trt_pool.num_threads = trt_pool.stopping = 0;
}

static int trt_pool_watch_forks(void) {
    return pthread_atfork(trt_pool_before_fork, trt_pool_after_fork_in_parent, trt_pool_after_fork_in_child);
}

#endif
