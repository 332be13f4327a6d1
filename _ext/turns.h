/* Who among the steps that run long may want the interpreter's lock at the moment.
 *
 * A thread that waits for the lock asks for it after 5 ms; with dozens of compiled loops asking, each gets a slice of
 * that length, and a thread that serves clients waits for all of them. So only a few steps that have used up a slice may
 * go on at a time; the others wait here, in the order in which they came, without the lock. A lease that is not given
 * back (its step is in a long kernel, which needs no lock) lapses.
 *
 * Included by running_step.pyx alone: the state below exists once in a process.
 */
#ifndef TRT_TURNS_H
#define TRT_TURNS_H

#include <pthread.h>
#include <time.h>

#include "running_step.h"

enum {
    TRT_LEASES = 2,
    /* A waiter looks this often whether it has been cancelled. */
    TRT_TURN_POLL_NS = 20000000
};

typedef struct trt_turn_waiter {
    trt_step *step;
    int granted;
    pthread_cond_t wake;
    struct trt_turn_waiter *next;
} trt_turn_waiter;

static struct {
    pthread_mutex_t mutex;
    trt_turn_waiter *first, *last;
    struct {
        trt_step *owner;
        int64_t since_ns; /* when its owner had the interpreter's lock; INT64_MAX while it waits for that */
    } leases[TRT_LEASES];
} trt_turns = {PTHREAD_MUTEX_INITIALIZER, NULL, NULL, {{NULL, 0}}};

static inline int64_t trt_now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* Give a lease to who has waited longest, or to nobody; with the mutex held. */
static void trt_pass_lease(int lease) {
    trt_turn_waiter *waiter = trt_turns.first;
    trt_turns.leases[lease].owner = waiter == NULL ? NULL : waiter->step;
    trt_turns.leases[lease].since_ns = INT64_MAX;
    if (waiter == NULL)
        return;
    trt_turns.first = waiter->next;
    if (trt_turns.first == NULL)
        trt_turns.last = NULL;
    waiter->granted = 1;
    waiter->step->lease = lease;
    pthread_cond_signal(&waiter->wake);
}

static inline int trt_owns_lease(const trt_step *step) {
    return step->lease >= 0 && trt_turns.leases[step->lease].owner == step;
}

/* A lease that nobody has, or whose time is over; -1 when there is none. */
static int trt_open_lease(int64_t now_ns, int64_t slice_ns) {
    for (int lease = 0; lease < TRT_LEASES; lease++)
        if (trt_turns.leases[lease].owner == NULL || trt_turns.leases[lease].since_ns < now_ns - 2 * slice_ns)
            return lease;
    return -1;
}

static void trt_leave_queue(trt_turn_waiter *waiter) {
    trt_turn_waiter **place = &trt_turns.first, *before = NULL;
    while (*place != waiter) {
        before = *place;
        place = &before->next;
    }
    *place = waiter->next;
    if (trt_turns.last == waiter)
        trt_turns.last = before;
}

/* Wait, without the interpreter's lock, until a step that has used up its slice may go on; not when it is cancelled. */
static void trt_wait_for_turn(trt_step *step, int64_t slice_ns) {
    trt_turn_waiter self;
    pthread_condattr_t clock;
    int64_t now_ns = trt_now_ns();
    int open;
    pthread_mutex_lock(&trt_turns.mutex);
    if (trt_owns_lease(step)) {
        if (trt_turns.first == NULL) {
            trt_turns.leases[step->lease].since_ns = INT64_MAX;
            pthread_mutex_unlock(&trt_turns.mutex);
            return;
        }
        trt_pass_lease(step->lease);
        step->lease = -1;
    }
    self.step = step;
    self.granted = 0;
    self.next = NULL;
    pthread_condattr_init(&clock);
    pthread_condattr_setclock(&clock, CLOCK_MONOTONIC);
    pthread_cond_init(&self.wake, &clock);
    pthread_condattr_destroy(&clock);
    if (trt_turns.last == NULL)
        trt_turns.first = &self;
    else
        trt_turns.last->next = &self;
    trt_turns.last = &self;
    while (!self.granted) {
        if (__atomic_load_n(&step->cancelled, __ATOMIC_RELAXED)) {
            trt_leave_queue(&self);
            break;
        }
        open = trt_open_lease(now_ns, slice_ns);
        if (open >= 0) {
            trt_pass_lease(open); /* to the first, who need not be this one */
            continue;
        }
        int64_t until_ns = now_ns + (trt_turns.first == &self ? slice_ns : TRT_TURN_POLL_NS);
        struct timespec until = {until_ns / 1000000000, until_ns % 1000000000};
        pthread_cond_timedwait(&self.wake, &trt_turns.mutex, &until);
        now_ns = trt_now_ns();
    }
    pthread_mutex_unlock(&trt_turns.mutex);
    pthread_cond_destroy(&self.wake);
}

/* A step has the interpreter's lock again: its lease counts from now on. */
static void trt_begin_slice(const trt_step *step, int64_t now_ns) {
    pthread_mutex_lock(&trt_turns.mutex);
    if (trt_owns_lease(step))
        trt_turns.leases[step->lease].since_ns = now_ns;
    pthread_mutex_unlock(&trt_turns.mutex);
}

/* Give back what lease a step has: it runs no more, or not here. */
static void trt_end_turn(trt_step *step) {
    pthread_mutex_lock(&trt_turns.mutex);
    if (trt_owns_lease(step))
        trt_pass_lease(step->lease);
    step->lease = -1;
    pthread_mutex_unlock(&trt_turns.mutex);
}

/* The child of a fork has one thread, and that is not in here. */
static void trt_turns_after_fork(void) {
    pthread_mutex_init(&trt_turns.mutex, NULL);
    trt_turns.first = trt_turns.last = NULL;
    memset(trt_turns.leases, 0, sizeof trt_turns.leases);
}

static int trt_turns_watch_forks(void) { return pthread_atfork(NULL, NULL, trt_turns_after_fork); }

#endif
