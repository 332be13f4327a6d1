"""Where tensors of a step meet: senders leave them under a key, receivers wait for them, whoever comes first.

A key belongs to one edge in one iteration of one step, so each value is delivered once. Values that were sent under one
key more than once are delivered in order.
"""

import threading
import time
from collections import OrderedDict, deque

cimport cython

from runtime._ext.errors import Aborted, InvalidArgument


@cython.final
cdef class Waiter:
    """A receiver that waits; `Rendezvous.forget` takes it.

    Attributes
    ----------
    key : str
    since : float
        When it began to wait, on the clock of `time.monotonic`.
    """
    cdef readonly str key
    cdef readonly double since
    cdef object done

    def __init__(self, *args, **kwargs):
        raise TypeError("waiters are made by Rendezvous.receive")


@cython.final
cdef class Rendezvous:
    """The meeting place of one step in one task.

    Notes
    -----
    Safe from several threads. Callbacks run in the thread that brings the value or the error, never while a lock of
    this object is held.
    """
    cdef object _lock
    cdef dict _values          # key -> deque of (value, is_dead)
    cdef dict _waiters         # key -> deque of Waiter
    cdef readonly object error
    cdef double _used          # when somebody last asked for it, on the clock of time.monotonic
    cdef bint _is_kept

    def __cinit__(self):
        self._used = time.monotonic()
        self._lock = threading.Lock()
        self._values = {}
        self._waiters = {}
        self.error = None

    def __len__(self):
        """Return how many values and waiters there are."""
        with self._lock:
            return sum(map(len, self._values.values())) + sum(map(len, self._waiters.values()))

    def send(self, str key not None, value, bint is_dead=False):
        """Leave a value; never waits.

        Parameters
        ----------
        key : str
        value : object
            What the receiver gets; None for a dead one.
        is_dead : bool

        Raises
        ------
        Error
            That of `abort`, when the step has been aborted.
        """
        cdef Waiter waiter = None
        with self._lock:
            if self.error is not None:
                raise self.error
            queue = self._waiters.get(key)
            if queue is not None:
                waiter = queue.popleft()
                if not queue:
                    del self._waiters[key]
            else:
                queue = self._values.get(key)
                if queue is None:
                    queue = self._values[key] = deque()
                queue.append((value, is_dead))
        if waiter is not None:
            done, waiter.done = waiter.done, None
            done(value, is_dead, None)

    def receive(self, str key not None, done):
        """Take a value, or wait for it.

        Parameters
        ----------
        key : str
        done : callable
            ``done(value, is_dead, error)``, called exactly once unless the waiter is forgotten: here and now when the
            value is there or the step has been aborted.

        Returns
        -------
        Waiter or None
            None when `done` has been called.
        """
        cdef Waiter waiter
        error = self.error
        value, is_dead = None, False
        with self._lock:
            error = self.error
            if error is None:
                queue = self._values.get(key)
                if queue is None:
                    waiter = Waiter.__new__(Waiter)
                    waiter.key = key
                    waiter.since = time.monotonic()
                    waiter.done = done
                    queue = self._waiters.get(key)
                    if queue is None:
                        queue = self._waiters[key] = deque()
                    queue.append(waiter)
                    return waiter
                value, is_dead = queue.popleft()
                if not queue:
                    del self._values[key]
        done(value, is_dead, error)
        return None

    def forget(self, Waiter waiter not None):
        """Take a waiter out; True when it was there, and then its `done` is never called."""
        with self._lock:
            queue = self._waiters.get(waiter.key)
            if queue is None or waiter not in queue:
                return False
            queue.remove(waiter)
            if not queue:
                del self._waiters[waiter.key]
            waiter.done = None
            return True

    def abort(self, error not None):
        """End the step here: waiters get the error, values are dropped, later calls fail. The first error stays."""
        cdef Waiter waiter
        with self._lock:
            if self.error is not None:
                return
            self.error = error
            waiting, self._waiters = self._waiters, {}
            self._values.clear()
        for queue in waiting.values():
            for waiter in queue:
                done, waiter.done = waiter.done, None
                done(None, False, error)

    def waiting(self):
        """Return (key, since) of every receiver that waits, the longest first."""
        with self._lock:
            found = [(waiter.key, waiter.since) for queue in self._waiters.values() for waiter in queue]
        return sorted(found, key=_since)


def _since(entry):
    return entry[1]


@cython.final
cdef class RendezvousTable:
    """The meeting places of a task by step id, each made by whoever comes first.

    Parameters
    ----------
    num_remembered : int
        How many step ids are remembered as over, so that a late receiver is refused and does not wait for ever.
    """
    cdef object _lock
    cdef dict _steps
    cdef object _over          # step ids, oldest first
    cdef int _num_remembered

    def __init__(self, int num_remembered=10000):
        self._lock = threading.Lock()
        self._steps = {}
        self._over = OrderedDict()
        self._num_remembered = num_remembered

    def __len__(self):
        return len(self._steps)

    def of(self, step_id, bint keep=False):
        """Return the meeting place of a step.

        Parameters
        ----------
        step_id : int
        keep : bool
            The step runs here: `clean` comes for it, and `sweep` leaves it alone.

        Raises
        ------
        Aborted
            If the step is over.
        """
        cdef Rendezvous found
        with self._lock:
            if step_id in self._over:
                raise Aborted(f"Cleanup {step_id}")
            found = self._steps.get(step_id)
            if found is None:
                found = self._steps[step_id] = Rendezvous()
            else:
                found._used = time.monotonic()
            if keep:
                found._is_kept = True
            return found

    def sweep(self, double idle_s):
        """Forget the meeting places at which nobody waits, for steps that have never run here.

        A receiver that gave up made them; its master is gone, and nobody cleans up after it.

        Parameters
        ----------
        idle_s : float
            Seconds since somebody last asked for one. Whoever has just asked is about to leave something there.
        """
        cdef Rendezvous found
        cdef double now = time.monotonic()
        with self._lock:
            for step_id, found in list(self._steps.items()):
                if not found._is_kept and now - found._used >= idle_s and not len(found):
                    del self._steps[step_id]

    def known(self, step_id):
        """Return the meeting place of a step, or None when there is none."""
        return self._steps.get(step_id)

    def clean(self, step_id):
        """Forget a step: whoever waits gets ABORTED ``Cleanup N``. Steps that are not known are fine."""
        with self._lock:
            found = self._steps.pop(step_id, None)
            self._over[step_id] = None
            while len(self._over) > self._num_remembered:
                self._over.popitem(last=False)
        if found is not None:
            found.abort(Aborted(f"Cleanup {step_id}"))

    def clean_all(self, error):
        """Abort and forget every step, with this error."""
        with self._lock:
            steps, self._steps = self._steps, {}
        for found in steps.values():
            found.abort(error)

    def waiting(self):
        """Return (step id, key, since) of every receiver that waits."""
        return [(step_id, key, since) for step_id, found in list(self._steps.items())
                for key, since in found.waiting()]


def parse_key(str key not None):
    """Return the parts of a rendezvous key: sending device, its incarnation, receiving device, edge, frame and iteration.

    Returns
    -------
    tuple of (str, int, str, str, str)

    Raises
    ------
    InvalidArgument
        If it is none.
    """
    parts = key.split(";")
    if len(parts) != 5 or not all(parts) or len(parts[1]) != 16:
        raise InvalidArgument(f"Invalid  rendezvous key: {key}")
    frame, separator, iteration = parts[4].partition(":")
    try:
        incarnation = int(parts[1], 16)
        if not separator or not (frame.isdecimal() and iteration.isdecimal()):
            raise ValueError
    except ValueError:
        raise InvalidArgument(f"Invalid  rendezvous key: {key}") from None
    return parts[0], incarnation, parts[2], parts[3], parts[4]
