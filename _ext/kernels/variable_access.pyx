"""Find, hold and change variables from compiled kernels; see ``variable_access.pxd``."""

from cpython.object cimport PyObject

cimport numpy as cnp

from runtime._ext.variable cimport ResourceHandle, Variable

cnp.import_array()


cdef PyObject *find_variable(PyObject *value, bint by_handle) noexcept:
    cdef PyObject *element
    if not by_handle:
        return value if type(<object>value) is Variable else NULL
    if not TRT_IS_ARRAY(value) or TRT_TYPE(value) != cnp.NPY_OBJECT or TRT_NDIM(value) != 0:
        return NULL
    element = (<PyObject **>TRT_DATA(value))[0]
    if element == NULL or type(<object>element) is not ResourceHandle:
        return NULL
    element = <PyObject *>(<ResourceHandle><object>element).resource
    return element if type(<object>element) is Variable else NULL


cdef PyObject *plain_value(PyObject *variable, int type_number) noexcept:
    cdef PyObject *array = <PyObject *>(<Variable>variable).value
    if trt_is_plain(array, type_number) and TRT_HAS_FLAGS(array, cnp.NPY_ARRAY_ALIGNED):
        return array
    return NULL


cdef bint changeable(PyObject *array) noexcept:
    return TRT_REFCNT(array) == 1 and TRT_HAS_FLAGS(array, cnp.NPY_ARRAY_OWNDATA | cnp.NPY_ARRAY_WRITEABLE)


cdef int hold(Held *held, bint long_work) except -1:
    cdef int i, j, taken = 0
    cdef PyObject *swap
    held.locked = long_work
    for i in range(1, held.count):  # by address: one order for everybody, so that two that need both cannot lock up
        j = i
        while j > 0 and held.variables[j - 1] > held.variables[j]:
            swap = held.variables[j]
            held.variables[j] = held.variables[j - 1]
            held.variables[j - 1] = swap
            j -= 1
    for i in range(1, held.count):
        if held.variables[i - 1] == held.variables[i]:
            return 1
    if not long_work:
        for i in range(held.count):
            if (<Variable>held.variables[i]).is_locked():
                held.locked = True
                break
        else:
            return 0
    try:
        while taken < held.count:
            (<Variable>held.variables[taken]).acquire()
            taken += 1
    except BaseException:
        while taken:
            taken -= 1
            (<Variable>held.variables[taken]).release()
        raise
    return 0


cdef int let_go(Held *held) except -1:
    cdef int i
    if held.locked:
        for i in range(held.count):
            (<Variable>held.variables[i]).release()
    return 0
