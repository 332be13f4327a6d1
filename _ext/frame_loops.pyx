"""Loops that clients wrote in frames and that run without: the condition and the body are straight lines."""

cimport cython
from cpython.list cimport PyList_GET_ITEM
from cpython.mem cimport PyMem_Calloc, PyMem_Free
from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF, Py_XDECREF

from runtime._ext.predicates cimport choice_of
from runtime._ext.program cimport Program
from runtime._ext.running_step cimport count_work
from runtime._ext.step_context cimport StepContext


@cython.final
cdef class FrameLoop:
    """A kernel that runs ``while condition: variables = body``; called with the step and with what enters.

    Parameters
    ----------
    condition : Program
        Takes the variables and what stays the same; its first fetch is the verdict.
    body : Program
        Its fetches are the variables of the next turn.
    num_variables, num_constants : int
    body_args, exits : sequence of int
        Where each feed of the body, and each value that leaves, comes from: a variable, then what stays the same, then
        the condition's fetches after the first.

    Raises
    ------
    ValueError
        If the numbers do not fit each other.
    """

    cdef Program _condition
    cdef Program _body
    cdef int _num_variables
    cdef int _num_given
    cdef tuple _exits
    cdef int *_body_args

    def __cinit__(self, Program condition not None, Program body not None, int num_variables, int num_constants,
                  body_args, exits):
        cdef int i, known
        self._condition, self._body = condition, body
        self._num_variables, self._num_given = num_variables, num_variables + num_constants
        self._exits = tuple(exits)
        known = self._num_given + condition.num_fetches - 1
        if (num_variables < 0 or num_constants < 0 or condition.num_feeds != self._num_given or known < self._num_given
                or body.num_fetches != num_variables or body.num_feeds != len(body_args)
                or not all([0 <= place < known for place in (*body_args, *exits)])):
            raise ValueError(f"a loop over {num_variables} variables and {num_constants} constants has a condition from "
                             f"{condition.num_feeds} to {condition.num_fetches} values, a body from {body.num_feeds} to "
                             f"{body.num_fetches}, arguments {list(body_args)} and exits {list(exits)}")
        self._body_args = <int *>PyMem_Calloc(max(body.num_feeds, 1), sizeof(int))
        if self._body_args == NULL:
            raise MemoryError()
        for i in range(body.num_feeds):
            self._body_args[i] = body_args[i]

    def __dealloc__(self):
        PyMem_Free(self._body_args)

    def __call__(self, StepContext step not None, *args):
        cdef int i, place
        cdef int num_args = self._body.num_feeds
        cdef PyObject *value
        cdef PyObject **given
        cdef PyObject **moved
        cdef list found, following
        if len(args) != self._num_given:
            raise ValueError(f"{len(args)} values given to a loop that {self._num_given} enter")
        given = <PyObject **>PyMem_Calloc(self._num_given + num_args + 1, sizeof(PyObject *))
        if given == NULL:
            raise MemoryError()
        moved = given + self._num_given
        try:
            for i in range(self._num_given):
                given[i] = <PyObject *>args[i]
                Py_INCREF(<object>given[i])
            args = None
            while True:
                if step.cancelled:
                    raise step.error
                found = self._condition.execute(step, given, False)
                if not choice_of(<object>PyList_GET_ITEM(found, 0), 2):
                    following = []
                    for place in self._exits:
                        if place < self._num_given:
                            following.append(<object>given[place])
                        else:
                            following.append(found[place - self._num_given + 1])
                    return following
                for i in range(num_args):
                    place = self._body_args[i]
                    moved[i] = given[place] if place < self._num_given else PyList_GET_ITEM(
                        found, place - self._num_given + 1)
                    Py_INCREF(<object>moved[i])
                # the body has the only references to the variables then, and may use their memory again
                found = None
                for i in range(self._num_variables):
                    value, given[i] = given[i], NULL
                    Py_XDECREF(value)
                following = self._body.execute(step, moved, True)
                for i in range(self._num_variables):
                    given[i] = PyList_GET_ITEM(following, i)
                    Py_INCREF(<object>given[i])
                following = None
                count_work(step.shared, 2)  # what a turn costs by itself; the instructions count themselves
        finally:
            for i in range(self._num_given):
                Py_XDECREF(given[i])
            PyMem_Free(given)
