/* The step that a thread works for, and the bytes of the arrays that steps have made.
 *
 * numpy asks the handler below for the memory of an array. A block of at least TRT_COUNTED_BYTES that a step asks for is
 * counted with it until the block is freed, whoever frees it, and refused when the step would hold too much; smaller
 * blocks, and those of threads that work for no step, go straight through. A table tells whose a block is; nothing is
 * put before or behind the blocks themselves.
 *
 * Included by running_step.pyx alone: the state below exists once in a process.
 */
#ifndef TRT_ARRAY_MEMORY_H
#define TRT_ARRAY_MEMORY_H

#include <Python.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "numpy/arrayobject.h"

#include "running_step.h"

/* The table costs some ten nanoseconds; filling a block of this size takes many times that. */
enum { TRT_COUNTED_BYTES = 4096 };

/* Nodes that a step runs before it first looks at the clock. */
enum { TRT_FIRST_WORK = 256 };

typedef struct {
    void *block; /* NULL: a free place */
    size_t bytes;
    trt_step *step;
} trt_counted;

static __thread trt_step *trt_current_step = NULL;

static struct {
    int locked; /* numpy calls under the GIL, so this is hardly ever contended */
    trt_counted *places;
    size_t size; /* a power of two */
    size_t used;
    int64_t held; /* by all steps */
    int64_t limit;
    PyDataMem_Handler *inner; /* where blocks come from: numpy's own, or what set_source was given */
} trt_memory = {0, NULL, 0, 0, 0, 0, NULL};

static inline void trt_memory_lock(void) {
    while (__atomic_test_and_set(&trt_memory.locked, __ATOMIC_ACQUIRE))
        ;
}

static inline void trt_memory_unlock(void) { __atomic_clear(&trt_memory.locked, __ATOMIC_RELEASE); }

static trt_step *trt_new_step(int64_t limit) {
    trt_step *step = calloc(1, sizeof *step);
    if (step != NULL) {
        step->references = 1;
        step->limit = limit;
        step->lease = -1;
        step->waits_for_turns = 1;
        step->work_left = step->work_at_once = TRT_FIRST_WORK;
    }
    return step;
}

static inline void trt_drop_reference(trt_step *step) {
    if (--step->references == 0)
        free(step);
}

static void trt_release_step(trt_step *step) {
    trt_memory_lock();
    trt_drop_reference(step);
    trt_memory_unlock();
}

static inline size_t trt_home(const void *block) {
    return (size_t)(((uint64_t)(uintptr_t)block * 0x9E3779B97F4A7C15ULL) >> 20) & (trt_memory.size - 1);
}

/* Take the block at a place out of the table and off its step's account. */
static void trt_uncount_at(size_t place) {
    trt_counted *places = trt_memory.places;
    size_t mask = trt_memory.size - 1, next = place;
    trt_step *step = places[place].step;
    step->held -= (int64_t)places[place].bytes;
    trt_memory.held -= (int64_t)places[place].bytes;
    trt_drop_reference(step);
    trt_memory.used--;
    for (;;) { /* what follows moves up, as far as its home allows */
        next = (next + 1) & mask;
        if (places[next].block == NULL)
            break;
        if (((next - trt_home(places[next].block)) & mask) >= ((next - place) & mask)) {
            places[place] = places[next];
            place = next;
        }
    }
    places[place].block = NULL;
}

static void trt_uncount(const void *block) {
    trt_memory_lock();
    if (trt_memory.used) {
        size_t mask = trt_memory.size - 1, place = trt_home(block);
        while (trt_memory.places[place].block != NULL && trt_memory.places[place].block != block)
            place = (place + 1) & mask;
        if (trt_memory.places[place].block == block)
            trt_uncount_at(place);
    }
    trt_memory_unlock();
}

/* Make room for one more; with the lock held. Returns 0 when there is no memory for it. */
static int trt_grow_table(void) {
    size_t size = trt_memory.size, larger = size ? 2 * size : 1024;
    trt_counted *former = trt_memory.places, *made;
    if (2 * (trt_memory.used + 1) <= size)
        return 1;
    made = calloc(larger, sizeof *made);
    if (made == NULL)
        return trt_memory.used + 1 < size; /* fuller than it should be, and right all the same */
    trt_memory.places = made;
    trt_memory.size = larger;
    for (size_t place = 0; place < size; place++) {
        if (former[place].block == NULL)
            continue;
        size_t home = trt_home(former[place].block);
        while (made[home].block != NULL)
            home = (home + 1) & (larger - 1);
        made[home] = former[place];
    }
    free(former);
    return 1;
}

static void trt_count(void *block, size_t bytes, trt_step *step) {
    trt_memory_lock();
    if (trt_grow_table()) {
        size_t mask = trt_memory.size - 1, place = trt_home(block);
        while (trt_memory.places[place].block != NULL && trt_memory.places[place].block != block)
            place = (place + 1) & mask;
        if (trt_memory.places[place].block == block) { /* freed past us: its former owner no longer has it */
            trt_uncount_at(place);
            place = trt_home(block);
            while (trt_memory.places[place].block != NULL)
                place = (place + 1) & mask;
        }
        trt_memory.places[place].block = block;
        trt_memory.places[place].bytes = bytes;
        trt_memory.places[place].step = step;
        trt_memory.used++;
        step->references++;
        step->held += (int64_t)bytes;
        trt_memory.held += (int64_t)bytes;
        if (step->held > step->peak)
            step->peak = step->held;
    }
    trt_memory_unlock();
}

/* Whether a step may have so many bytes more; notes it when not. */
static int trt_admit(trt_step *step, size_t bytes) {
    int alone = step->limit > 0 && (bytes > (size_t)step->limit || step->held > step->limit - (int64_t)bytes);
    int together = !alone && step->limit > 0 && trt_memory.limit > 0 &&
                   (bytes > (size_t)trt_memory.limit || trt_memory.held > trt_memory.limit - (int64_t)bytes);
    if (!alone && !together)
        return 1;
    step->refused = bytes > (size_t)INT64_MAX ? INT64_MAX : (int64_t)bytes;
    step->refused_at = alone ? step->held : trt_memory.held;
    step->refused_by_all = together;
    return 0;
}

/* Count a fresh block, or give it back and return NULL: where blocks come from, other threads may have run since the
 * step was admitted, and have taken what was left. */
static void *trt_counted_block(PyDataMemAllocator *inner, void *block, size_t bytes, trt_step *step) {
    if (block == NULL)
        return NULL;
    if (!trt_admit(step, bytes)) {
        inner->free(inner->ctx, block, bytes);
        return NULL;
    }
    trt_count(block, bytes, step);
    return block;
}

static void *trt_array_malloc(void *unused, size_t bytes) {
    PyDataMemAllocator *inner = &trt_memory.inner->allocator;
    trt_step *step = bytes < TRT_COUNTED_BYTES ? NULL : trt_current_step;
    (void)unused;
    if (step == NULL)
        return inner->malloc(inner->ctx, bytes);
    if (!trt_admit(step, bytes))
        return NULL;
    return trt_counted_block(inner, inner->malloc(inner->ctx, bytes), bytes, step);
}

static void *trt_array_calloc(void *unused, size_t count, size_t each) {
    PyDataMemAllocator *inner = &trt_memory.inner->allocator;
    trt_step *step = trt_current_step;
    size_t bytes;
    (void)unused;
    if (step == NULL || __builtin_mul_overflow(count, each, &bytes) || bytes < TRT_COUNTED_BYTES)
        return inner->calloc(inner->ctx, count, each);
    if (!trt_admit(step, bytes))
        return NULL;
    return trt_counted_block(inner, inner->calloc(inner->ctx, count, each), bytes, step);
}

static void *trt_array_realloc(void *unused, void *former, size_t bytes) {
    PyDataMemAllocator *inner = &trt_memory.inner->allocator;
    trt_step *step = bytes < TRT_COUNTED_BYTES ? NULL : trt_current_step;
    void *block;
    (void)unused;
    if (step != NULL && !trt_admit(step, bytes))
        return NULL;
    block = inner->realloc(inner->ctx, former, bytes);
    if (block == NULL)
        return NULL;
    if (former != NULL)
        trt_uncount(former);
    if (step != NULL)
        trt_count(block, bytes, step);
    return block;
}

static void trt_array_free(void *unused, void *block, size_t bytes) {
    PyDataMemAllocator *inner = &trt_memory.inner->allocator;
    (void)unused;
    if (block != NULL && bytes >= TRT_COUNTED_BYTES) /* numpy's sorts give back buffers that they never took */
        trt_uncount(block);
    inner->free(inner->ctx, block, bytes);
}

static PyDataMem_Handler trt_array_handler = {
    "tensor_runtime", 1, {NULL, trt_array_malloc, trt_array_calloc, trt_array_realloc, trt_array_free}};

/* Return the handler as numpy takes it. */
static PyObject *trt_make_handler(void) {
    trt_memory.inner = PyCapsule_GetPointer(PyDataMem_DefaultHandler, "mem_handler");
    return trt_memory.inner == NULL ? NULL : PyCapsule_New(&trt_array_handler, "mem_handler", NULL);
}

#endif
