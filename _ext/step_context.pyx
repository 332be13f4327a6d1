"""The running step: its id, its resources, how it is cancelled, and what is recorded of it when it is traced.

The master makes one `StepContext` per step and closes it; executors poll `cancelled`; kernels that may wait register
with `on_cancel`, and may say there what they wait for.
"""

import logging
import threading

from numpy import ndarray

cimport cython
from cpython.object cimport PyObject
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec

from runtime._ext.running_step cimport new_step, release_step
from runtime._ext.variable cimport Variable

logger = logging.getLogger(__name__)


cdef double monotonic() noexcept nogil:
    """Return what `time.monotonic` does."""
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return now.tv_sec + now.tv_nsec * 1e-9


cdef extern from *:
    """
    static __thread PyObject *trt_node_called_for;
    """
    PyObject *trt_node_called_for


cdef PyObject *call_for_node(PyObject *name) noexcept:
    global trt_node_called_for
    cdef PyObject *former = trt_node_called_for
    trt_node_called_for = name
    return former


# A loop of a billion turns must not fill the memory with its trace: at some 500 bytes an event this is 0.5 GB.
MAX_TRACE_EVENTS = 1 << 20


@cython.final
cdef class StepTrace:
    """What ran in a traced step.

    Attributes
    ----------
    events : list of tuple
        One ``(path, node, scheduled_ns, started_ns, ended_ns, thread_id, outputs)`` per executed node: the calls around
        the node, each followed by ``/``; the `Node`; Unix times in nanoseconds; and per output
        ``(dtype, shape, nbytes, address, owns)``, or None where there is no array. ``owns`` tells that the array is no
        view, no constant (these are read-only) and no variable's; ``address`` is 0 where its memory is not the processor's.
    dropped : int
        How many nodes ran after `MAX_TRACE_EVENTS`; nothing is known of them.
    """

    def __cinit__(self):
        self.events = []
        self.dropped = 0

    cdef int add(self, str path, object node, object scheduled_ns, object started_ns, object ended_ns,
                 list outputs) except -1:
        if len(self.events) >= MAX_TRACE_EVENTS:
            self.dropped += 1
            return 0
        described = []
        for value in outputs:
            is_variable = isinstance(value, Variable)
            if is_variable:
                value = (<Variable>value).value
            shape = getattr(value, "shape", None)
            nbytes = getattr(value, "nbytes", None)
            if shape is None or nbytes is None:
                described.append(None)
            elif isinstance(value, ndarray):
                described.append((value.dtype, shape, nbytes, value.__array_interface__["data"][0],
                                  value.flags.owndata and value.flags.writeable and not is_variable))
            else:
                described.append((value.dtype, shape, nbytes, 0, True))
        self.events.append((path, node, scheduled_ns, started_ns, ended_ns, threading.get_ident(), described))
        return 0


@cython.final
cdef class StepContext:
    """One run of a step.

    Parameters
    ----------
    step_id : int
    session_state : SessionState
    trace : StepTrace, optional
        Filled with what runs; None when the step is not traced.
    hand_over : callable, optional
        ``hand_over(callable)`` runs the callable in another thread. The rest of a step that waited goes through it;
        without it that rest runs in the thread that ended the wait.
    memory_limit : int
        What the arrays that the step makes may hold together, in bytes; 0 for no limit.
    at_once : bool
        Whether it runs in a thread that serves everybody and so waits for no other step's turn to use the interpreter.

    Attributes
    ----------
    exchange : object or None
        Where tensors pass that come from other tasks or go there; see `runtime.worker.exchange`.
    selection : Selection or None
        What it runs, where whoever made the step says so.
    wants_graphs : bool
        Whether the graphs that ran are to be told.
    started : float
        When it was made, on the clock of `time.monotonic`.
    cancelled : bool
    error : BaseException or None
        The error that the step was cancelled with.
    held_bytes, peak_bytes : int
        What the arrays that the step made hold now, and the most that they held; see `runtime._ext.running_step`.
    worked : int
        How many nodes have run, as far as executors and compiled loops count them; a turn of a loop counts for two more.

    Notes
    -----
    Safe from several threads.
    """

    def __cinit__(self, step_id, session_state, StepTrace trace=None, hand_over=None, memory_limit=0,
                  bint at_once=False):
        self.shared = new_step(memory_limit)
        self.shared.waits_for_turns = not at_once
        self.step_id = step_id
        self.state = session_state
        self.trace = trace
        self.hand_over = hand_over
        self.exchange = None
        self.selection = None
        self.wants_graphs = False
        self.started = monotonic()
        self.error = None
        self.cancelled = False
        self._resources = None
        self._callbacks = {}
        self._lock = threading.Lock()
        self._last_token = 0

    def __dealloc__(self):
        release_step(self.shared)

    @property
    def held_bytes(self):
        return self.shared.held

    @property
    def peak_bytes(self):
        return self.shared.peak

    @property
    def worked(self):
        return self.shared.worked

    @property
    def resources(self):
        """Return the step's own `ResourceManager`; what is in it vanishes with the step."""
        with self._lock:
            if self._resources is None:
                self._resources = self.state.step_resources()
            return self._resources

    def cancel(self, error):
        """End the step with an error: nothing further starts, and everything that waits is woken.

        Parameters
        ----------
        error : BaseException
            What the step ends with, unless it has ended or was cancelled before.

        Returns
        -------
        bool
            Whether this call was the first.
        """
        with self._lock:
            if self.cancelled or self._callbacks is None:
                return False
            self.error = error
            self.cancelled = True
            self.shared.cancelled = 1
            callbacks, self._callbacks = self._callbacks, None
        for entry in callbacks.values():
            try:
                (entry[0] if type(entry) is tuple else entry)()
            except Exception:
                # the others must be woken all the same
                logger.exception("a cancel callback of step %s failed", self.step_id)
        return True

    def check(self):
        """Raise the error that the step was cancelled with, if it was."""
        if self.cancelled:
            raise self.error

    def on_cancel(self, callback, waits_for=None):
        """Have ``callback()`` called once when the step is cancelled; at once if it has been.

        Parameters
        ----------
        callback : callable
        waits_for : callable, optional
            ``waits_for()`` returns what the step waits for, as a text; called only when somebody asks, from any thread.

        Returns
        -------
        int
            Token for `forget`; 0 when the callback was called at once.

        Notes
        -----
        Call it without holding a lock that the callback takes.
        """
        with self._lock:
            if self._callbacks is not None:
                self._last_token += 1
                if waits_for is None:
                    self._callbacks[self._last_token] = callback
                else:
                    node = "" if trt_node_called_for == NULL else <object>trt_node_called_for
                    self._callbacks[self._last_token] = (callback, waits_for, monotonic(), node)
                return self._last_token
        if self.cancelled:
            callback()
        return 0

    def forget(self, token):
        """Drop a callback; tell whether it was still registered (False: it was, or is being, called)."""
        with self._lock:
            return self._callbacks is not None and self._callbacks.pop(token, None) is not None

    def waits(self):
        """Return what the step waits for and can name: ``(since, text, node)`` each.

        ``since`` is on the clock of `time.monotonic`; ``node`` is the name of the node that waits, empty for the whole.
        """
        with self._lock:
            entries = list(self._callbacks.values()) if self._callbacks is not None else []
        return [(entry[2], entry[1](), entry[3]) for entry in entries if type(entry) is tuple]

    def close(self):
        """End the step: its resources are dropped, and a later `cancel` does nothing."""
        with self._lock:
            self._callbacks = None
            resources, self._resources = self._resources, None
        if resources is not None:
            resources.clear_all()

    def __repr__(self):
        return f"<StepContext {self.step_id}{' cancelled' if self.cancelled else ''}>"
