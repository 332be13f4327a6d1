"""Instructions of a straight line that run only on some side of a conditional."""

cimport cython
from cpython.object cimport PyObject


cdef struct Guard:
    int cell                  # of the predicate
    int choice                # the side; negative: the value has only to be there
    int count                 # how many sides there are
    int target                # the instruction to go on with when it is another one
    int *clears               # cells to clear then: those of values from before that die within
    int num_clears
    PyObject *name            # str for errors; owned by the table


@cython.final
cdef class GuardTable:
    cdef Guard *guards
    cdef int num_guards
    cdef int *_clears         # one block for all
    cdef list _names

    # Check guards [first, last); -1 when all of them let the line go on, else the instruction to go on with.
    cdef int check(self, int first, int last, PyObject **slots) except -2


# The table of (cell, choice, count, target, name), with the cells that each clears when it skips.
cdef GuardTable make_guards(list found, list clears)
