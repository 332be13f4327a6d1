"""Calls of Python definitions that may take long, so that a cancelled step need not wait for them.

What is one call of numpy, LAPACK or an image library cannot be stopped from outside. A call that is expected to take
longer than `APART_NS` therefore runs in a thread of its own; the step's thread waits for it, or for the step to be
cancelled. A call that its step has left behind goes on to its end, and nothing comes of it: it keeps its inputs, what
it makes stays on the step's account until it is freed, and at most `MOST_LEFT` such calls run at once.

How long a call will take follows from the sizes of its inputs and from what earlier calls of the same node have shown.
"""

import os
import queue
import threading

cimport numpy as cnp
from cpython.bytes cimport PyBytes_CheckExact, PyBytes_GET_SIZE
from cpython.object cimport PyObject
from libc.math cimport sqrt
from libc.stdint cimport int32_t, int64_t
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec

from runtime._ext.float_errors cimport restore_warnings, silence_warnings
from runtime._ext.running_step cimport Former, enter_step, leave_step
from runtime._ext.step_context cimport StepContext

from runtime._ext.errors import ResourceExhausted

cnp.import_array()

cdef extern from "Python.h":
    int PyThreadState_SetAsyncExc(unsigned long thread, PyObject *exception)

cdef extern from *:
    """
    #define RT_ARRAY_CHECK_EXACT(value) PyArray_CheckExact(value)
    #define RT_NDIM(array) PyArray_NDIM((PyArrayObject *)(array))
    #define RT_DIM(array, axis) PyArray_DIM((PyArrayObject *)(array), axis)
    #define RT_SIZE(array) PyArray_SIZE((PyArrayObject *)(array))
    #define RT_ITEM_BYTES(array) PyArray_ITEMSIZE((PyArrayObject *)(array))
    #define RT_TYPE(array) PyArray_TYPE((PyArrayObject *)(array))
    #define RT_DATA(array) PyArray_DATA((PyArrayObject *)(array))
    #define RT_IN_ORDER(array) PyArray_ISCARRAY_RO((PyArrayObject *)(array))
    """
    bint RT_ARRAY_CHECK_EXACT(PyObject *value)
    int RT_NDIM(PyObject *array)
    cnp.npy_intp RT_DIM(PyObject *array, int axis)
    cnp.npy_intp RT_SIZE(PyObject *array)
    int RT_ITEM_BYTES(PyObject *array)
    int RT_TYPE(PyObject *array)
    void *RT_DATA(PyObject *array)
    bint RT_IN_ORDER(PyObject *array)

cdef enum:
    # What a cancelled step may wait for a call that runs in its own thread, on a machine that has nothing else to do:
    # a fifth of what is promised, because an estimate may be wrong by some factor. Going to another thread and back
    # takes some 50 us, a four-hundredth of it.
    APART_NS = 20000000
    # An element that is an object costs as much as so many bytes of numbers, and each of its own bytes as one.
    OBJECT_BYTES = 64
    # Objects looked at one by one; the others are taken to be like these.
    MOST_OBJECTS = 1024
    # Inputs with more elements hold no counts.
    MOST_COUNTS = 16
    MOST_DIMS = 64

MOST_LEFT = 8
"""Calls that cancelled steps have left behind and that still run, at most; further long calls are then refused."""

# A thread without work ends after so long.
_IDLE_S = 2.0

COSTS = {"linear": COST_LINEAR, "broadcast": COST_BROADCAST, "product": COST_PRODUCT}
"""How the time of a call grows with the bytes of its inputs, by name."""


cdef double _bytes_of(PyObject *array) noexcept:
    """Return the bytes of an array; of objects what they weigh."""
    cdef cnp.npy_intp size = RT_SIZE(array), looked_at, i
    cdef PyObject **items
    cdef double total = 0
    if RT_TYPE(array) != cnp.NPY_OBJECT:
        return <double>size * RT_ITEM_BYTES(array)
    if not RT_IN_ORDER(array) or size == 0:
        return <double>size * OBJECT_BYTES
    items = <PyObject **>RT_DATA(array)
    looked_at = min(size, <cnp.npy_intp>MOST_OBJECTS)
    for i in range(looked_at):
        total += OBJECT_BYTES
        if items[i] != NULL and PyBytes_CheckExact(<object>items[i]):
            total += PyBytes_GET_SIZE(<object>items[i])
    return total * (<double>size / looked_at)


cdef double _made(PyObject *array) noexcept:
    """Return the product of the counts in an array, at least 1; 1 where it has none."""
    cdef cnp.npy_intp size = RT_SIZE(array), i
    cdef double product = 1, count
    if size > MOST_COUNTS or not RT_IN_ORDER(array):
        return 1
    for i in range(size):
        if RT_TYPE(array) == cnp.NPY_INT32:
            count = (<int32_t *>RT_DATA(array))[i]
        elif RT_TYPE(array) == cnp.NPY_INT64:
            count = <double>(<int64_t *>RT_DATA(array))[i]
        else:
            return 1
        if count > 1:
            product *= count
    return product


cdef double _broadcast_bytes(PyObject **inputs, int num_inputs) noexcept:
    cdef double total = 1
    cdef cnp.npy_intp dim, largest
    cdef int i, axis, item_bytes = 1, most_dims = 0
    for i in range(num_inputs):
        if RT_ARRAY_CHECK_EXACT(inputs[i]):
            most_dims = max(most_dims, RT_NDIM(inputs[i]))
            item_bytes = max(item_bytes, RT_ITEM_BYTES(inputs[i]))
    for axis in range(1, most_dims + 1):
        largest = 1
        for i in range(num_inputs):
            if RT_ARRAY_CHECK_EXACT(inputs[i]) and RT_NDIM(inputs[i]) >= axis:
                dim = RT_DIM(inputs[i], RT_NDIM(inputs[i]) - axis)
                if dim != 1 and largest == 1:
                    largest = dim
        total *= largest
    return total * item_bytes


cdef double work_of(const trt_pace *pace, PyObject **inputs, int num_inputs) noexcept:
    cdef double work = 0, made = 1
    cdef int i
    if pace.cost == COST_BROADCAST:
        return _broadcast_bytes(inputs, num_inputs)
    for i in range(num_inputs):
        if not RT_ARRAY_CHECK_EXACT(inputs[i]):
            continue
        if i < 64 and pace.counts >> i & 1:
            made *= _made(inputs[i])
        work += _bytes_of(inputs[i])
    work *= made
    return work * sqrt(work) if pace.cost == COST_PRODUCT else work


cdef double _now_ns() noexcept nogil:
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return now.tv_sec * 1e9 + now.tv_nsec


cdef void _learn(trt_pace *pace, double work, double elapsed_ns) noexcept:
    """Let a call count: a slow one at once, a fast one by half, for it may have been lucky."""
    cdef double shown = elapsed_ns / work
    pace.ns_per_unit = shown if shown > pace.ns_per_unit else 0.5 * (shown + pace.ns_per_unit)


cdef object call_watched(trt_pace *pace, double work, object call, str name, StepContext step, PyObject **inputs,
                         int num_inputs):
    cdef list arguments = []
    cdef double started
    cdef int i
    for i in range(num_inputs):
        arguments.append(<object>inputs[i])
    if work * pace.ns_per_unit >= APART_NS:
        return _call_apart(pace, work, call, name, step, arguments)
    started = _now_ns()
    result = call(*arguments)
    _learn(pace, work, _now_ns() - started)
    return result


# Threads.

class _Left(BaseException):
    """Ends the Python code of a call that its step has left behind."""


cdef object _lock = threading.Lock()  # guards what follows, and the fields of calls that two threads use
cdef list _idle = []                  # queues of threads without work
cdef set _left = set()                # calls that their steps have left behind, still running


cdef class _LongCall:
    """One call in a thread of its own."""
    cdef object call
    cdef list arguments
    cdef StepContext step
    cdef str name
    cdef object ready                 # a lock, free once the step's thread may go on
    cdef bint released
    cdef bint finished
    cdef bint left
    cdef unsigned long thread
    cdef object result
    cdef object error
    cdef double elapsed_ns

    def __cinit__(self, call, list arguments, StepContext step, str name):
        self.call = call
        self.arguments = arguments
        self.step = step
        self.name = name
        self.ready = threading.Lock()
        self.ready.acquire()

    def wake(self):
        """Let the step's thread go on."""
        with _lock:
            if self.released:
                return
            self.released = True
        self.ready.release()

    def leave(self):
        """Have the call run on by itself; tell whether it still runs."""
        with _lock:
            if self.finished:
                return False
            self.left = True
            _left.add(self)
            if self.thread:
                # Python code of the call ends at once; what is inside of a library ends when it ends
                PyThreadState_SetAsyncExc(self.thread, <PyObject *>_Left)
        return True

    cdef int run(self) except -1:
        cdef Former former
        cdef double started = _now_ns()
        cdef object result = None
        cdef object error = None
        with _lock:
            self.thread = threading.get_ident()
            if self.left:
                self.finished = True
                _left.discard(self)
        if not self.finished:
            try:
                former = enter_step(self.step.shared)
                try:
                    warnings = silence_warnings()
                    try:
                        result = self.call(*self.arguments)
                    finally:
                        restore_warnings(warnings)
                finally:
                    leave_step(former)
            except BaseException as raised:
                error = raised
            with _lock:
                self.finished = True
                PyThreadState_SetAsyncExc(self.thread, NULL)
                _left.discard(self)
        self.elapsed_ns = _now_ns() - started
        self.call = self.arguments = None
        if not self.left:
            self.result, self.error = result, error
        self.wake()
        return 0


def _serve(mine):
    """Run the calls that come to a queue, until none has come for some time."""
    while True:
        try:
            call = mine.get(timeout=_IDLE_S)
        except queue.Empty:
            with _lock:
                if mine in _idle:
                    _idle.remove(mine)
                    return
            call = mine.get()  # it was on its way
        (<_LongCall>call).run()
        del call
        with _lock:
            _idle.append(mine)


cdef int _begin(_LongCall call) except -1:
    with _lock:
        mine = _idle.pop() if _idle else None
    if mine is None:
        mine = queue.SimpleQueue()
        threading.Thread(target=_serve, args=(mine,), name="long-call", daemon=True).start()
    mine.put(call)
    return 0


cdef object _call_apart(trt_pace *pace, double work, object function, str name, StepContext step, list arguments):
    cdef _LongCall call
    with _lock:
        if len(_left) >= MOST_LEFT:
            names = ", ".join(sorted((<_LongCall>other).name for other in _left))
            raise ResourceExhausted(f"{len(_left)} long calls that cancelled steps have left behind still run, and no "
                                    f"further one may begin until one of them ends: {names}")
    step.check()
    call = _LongCall(function, arguments, step, name)
    _begin(call)
    token = step.on_cancel(call.wake, lambda: f"the end of a long call of {name}")
    try:
        call.ready.acquire()
    except BaseException:  # an interrupt, in the main thread
        if token:
            step.forget(token)
        call.leave()
        raise
    if token:
        step.forget(token)
    if not call.finished and call.leave():
        raise step.error
    _learn(pace, work, call.elapsed_ns)
    if call.error is not None:
        raise call.error
    return call.result


def left_calls():
    """Return the names of calls that cancelled steps have left behind and that still run.

    Returns
    -------
    list of str
    """
    with _lock:
        return sorted((<_LongCall>call).name for call in _left)


def _forget_threads():
    """In a forked child, where no thread of the parent runs."""
    global _lock
    _lock = threading.Lock()
    _idle.clear()
    _left.clear()


os.register_at_fork(after_in_child=_forget_threads)
