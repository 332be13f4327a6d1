"""The conditions of If, While and Switch: what a tensor means as a truth value or as the number of a branch."""

cimport numpy as cnp

from runtime._ext.errors import InvalidArgument

cnp.import_array()


cdef int truth_of(object value) except -1:
    if cnp.PyArray_CheckExact(value):
        if cnp.PyArray_NDIM(<cnp.ndarray>value):
            return cnp.PyArray_SIZE(<cnp.ndarray>value) != 0
        if cnp.PyArray_TYPE(<cnp.ndarray>value) == cnp.NPY_BOOL:
            return (<unsigned char *>cnp.PyArray_DATA(<cnp.ndarray>value))[0] != 0
    elif value.ndim:
        return value.size != 0
    item = value.item()
    if isinstance(item, (bytes, str)):
        return len(item) != 0
    return item != 0


cdef int choice_of(object predicate, int num_outputs) except -1:
    cdef long long index
    if (cnp.PyArray_CheckExact(predicate) and cnp.PyArray_TYPE(<cnp.ndarray>predicate) == cnp.NPY_BOOL
            and cnp.PyArray_NDIM(<cnp.ndarray>predicate) == 0):
        return (<unsigned char *>cnp.PyArray_DATA(<cnp.ndarray>predicate))[0] != 0
    if predicate.ndim:
        raise InvalidArgument(f"The second input must be a scalar, but it has shape {list(predicate.shape)}")
    index = predicate.item()
    return <int>index if 0 <= index < num_outputs else num_outputs - 1


def truth(value):
    """Tell whether a tensor is true as the condition of If and While.

    A boolean scalar as it is, a number unless it is zero, a string unless it is empty, and a tensor of rank 1 or more
    when it has elements.

    Parameters
    ----------
    value : ndarray

    Returns
    -------
    bool
    """
    return truth_of(value) != 0
