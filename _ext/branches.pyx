"""Conditionals in straight lines: which instructions are skipped, and what Merge does.

A guard stands before the first of some instructions that follow each other and live on one side of a conditional. When
the predicate chooses another side, the line goes on behind the last of them. Values that are not made are missing from
their cells; only `MERGE` looks at such cells.
"""

cimport cython
from cpython.mem cimport PyMem_Calloc, PyMem_Free
from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF

cimport numpy as cnp

from runtime._ext.invoke cimport named_error
from runtime._ext.kernel_abi cimport KernelCall, make_kernel
from runtime._ext.predicates cimport choice_of
from runtime._ext.running_step cimport spare_arrays, trt_let_go, trt_spares

cnp.import_array()

cdef trt_spares *_SPARES = spare_arrays()


@cython.final
cdef class GuardTable:
    """The guards of a program, in the order in which they are met."""

    def __dealloc__(self):
        PyMem_Free(self.guards)
        PyMem_Free(self._clears)

    cdef int check(self, int first, int last, PyObject **slots) except -2:
        cdef Guard *guard = self.guards + first
        cdef Guard *end = self.guards + last
        cdef PyObject *value
        cdef int i, choice
        while guard < end:
            value = slots[guard.cell]
            if guard.choice < 0:
                choice = -1 if value != NULL else 0
            else:
                try:
                    choice = choice_of(<object>value, guard.count)
                except Exception as error:
                    raise named_error(error, <str>guard.name)
            if choice != guard.choice:
                for i in range(guard.num_clears):
                    value = slots[guard.clears[i]]
                    slots[guard.clears[i]] = NULL
                    trt_let_go(_SPARES, value)
                return guard.target
            guard += 1
        return -1


cdef GuardTable make_guards(list found, list clears):
    """Return the table of (cell, choice, count, target, name), with the cells that each clears when it skips."""
    cdef GuardTable table = GuardTable.__new__(GuardTable)
    cdef int i = 0, k = 0, cell
    table.num_guards = <int>len(found)
    table.guards = <Guard *>PyMem_Calloc(max(table.num_guards, 1), sizeof(Guard))
    table._clears = <int *>PyMem_Calloc(max(sum([len(cells) for cells in clears]), 1), sizeof(int))
    if not (table.guards and table._clears):
        raise MemoryError()
    table._names = [entry[4] for entry in found]
    for entry, cells in zip(found, clears):
        table.guards[i].cell, table.guards[i].choice, table.guards[i].count, table.guards[i].target = entry[:4]
        table.guards[i].name = <PyObject *>table._names[i]
        table.guards[i].clears, table.guards[i].num_clears = table._clears + k, <int>len(cells)
        for cell in cells:
            table._clears[k] = cell
            k += 1
        i += 1
    return table


cdef int _merge(KernelCall *call) except -1:
    """Hand on the input that is there, and its number; nothing when none is."""
    cdef int i
    cdef object index
    for i in range(call.num_inputs):
        if call.inputs[i] != NULL:
            index = _index(i)
            Py_INCREF(index)
            call.outputs[1] = <PyObject *>index
            call.outputs[0] = call.inputs[i]
            Py_INCREF(<object>call.outputs[0])
            return 0
    return 0


cdef int _pass(KernelCall *call) except -1:
    call.outputs[0] = call.inputs[0]
    Py_INCREF(<object>call.outputs[0])
    return 0


cdef list _indices = []


cdef object _index(int number):
    """Return a number as a scalar that every Merge may give out."""
    while len(_indices) <= number:
        made = cnp.PyArray_EMPTY(0, NULL, cnp.NPY_INT32, 0)
        (<int *>cnp.PyArray_DATA(<cnp.ndarray>made))[0] = <int>len(_indices)
        cnp.PyArray_CLEARFLAGS(<cnp.ndarray>made, cnp.NPY_ARRAY_WRITEABLE)
        _indices.append(made)
    return _indices[number]


MERGE = make_kernel(_merge, NULL, 0)
PASS = make_kernel(_pass, NULL, 0)
