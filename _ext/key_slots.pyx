"""Keys to slots by a dictionary, many keys at a time, and where dense tables put them.

Callers are the lookup tables (`runtime.ops.state.table`, `dense_table`). Keys are Python objects: numbers, bytes, or
tuples of these. The functions hold the GIL.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.dict cimport PyDict_GetItem
from cpython.object cimport PyObject
from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memcpy

cimport numpy as cnp

import numpy as np

cnp.import_array()

cdef uint8_t USED = 1
# MurmurHash64A, with the seed that TensorFlow uses.
cdef uint64_t FACTOR = 0xC6A4A7935BD1E995
cdef uint64_t SEED = 0xDECAFCAFFE


def find_slots(dict slots not None, list keys not None):
    """Return the slot of every key, -1 for those that are absent, and how many these are.

    Parameters
    ----------
    slots : dict
        Key to slot.
    keys : list

    Returns
    -------
    slots : ndarray
        Shape ``(len(keys),)``, intp.
    missing : int
    """
    cdef Py_ssize_t count = len(keys), missing = 0, index
    cdef PyObject *found
    result = np.empty(count, np.intp)
    cdef Py_ssize_t[::1] view = result
    for index in range(count):
        found = PyDict_GetItem(slots, keys[index])
        if found is NULL:
            view[index] = -1
            missing += 1
        else:
            view[index] = <object>found
    return result, missing


def assign_slots(dict slots not None, list free not None, list keys not None):
    """Return the slot of every key; new keys get the free ones, from the end, then those behind all others.

    Parameters
    ----------
    slots : dict
        Key to slot; new keys are added.
    free : list of int
        Slots below ``len(slots) + len(free)`` that no key has; those that are given out are removed.

    Returns
    -------
    slots : ndarray
        Shape ``(len(keys),)``, intp.
    """
    cdef Py_ssize_t count = len(keys), index
    cdef PyObject *found
    result = np.empty(count, np.intp)
    cdef Py_ssize_t[::1] view = result
    for index in range(count):
        key = keys[index]
        found = PyDict_GetItem(slots, key)
        if found is NULL:
            slot = free.pop() if free else len(slots)
            slots[key] = slot
            view[index] = slot
        else:
            view[index] = <object>found
    return result


def place_keys(dict slots not None, uint8_t[::1] states not None, list keys not None,
               const uint64_t[::1] hashes not None):
    """Return the bucket of every key; a new key gets the first one on its way that holds no key.

    Parameters
    ----------
    slots : dict
        Key to bucket; new keys are added.
    states : writable buffer of uint8
        One for each bucket, whose number is a power of two: 1 where a key is. Some other must be left for every new key.
    hashes : ndarray
        Of the keys, uint64: where their ways begin, whose steps grow by one.

    Returns
    -------
    buckets : ndarray
        Shape ``(len(keys),)``, intp.
    """
    cdef Py_ssize_t count = len(keys), index
    cdef uint64_t mask = <uint64_t>states.shape[0] - 1, bucket, probes
    cdef PyObject *found
    if hashes.shape[0] != count:
        raise ValueError(f"{count} keys have {hashes.shape[0]} hashes")
    result = np.empty(count, np.intp)
    cdef Py_ssize_t[::1] view = result
    for index in range(count):
        key = keys[index]
        found = PyDict_GetItem(slots, key)
        if found is not NULL:
            view[index] = <object>found
            continue
        bucket = hashes[index] & mask
        probes = 0
        while states[bucket] == USED:
            probes += 1
            if probes > mask:
                raise ValueError("there is no bucket left")
            bucket = (bucket + probes) & mask
        states[bucket] = USED
        slots[key] = <Py_ssize_t>bucket
        view[index] = <Py_ssize_t>bucket
    return result


cdef uint64_t _hash(const char *text, Py_ssize_t size) noexcept nogil:
    cdef uint64_t result = SEED ^ (<uint64_t>size * FACTOR), word
    cdef Py_ssize_t rest = size & 7, place, whole = size - rest
    for place in range(0, whole, 8):
        memcpy(&word, text + place, 8)
        word *= FACTOR
        word ^= word >> 47
        word *= FACTOR
        result ^= word
        result *= FACTOR
    if rest:
        word = 0
        memcpy(&word, text + whole, rest)
        result ^= word
        result *= FACTOR
    result ^= result >> 47
    result *= FACTOR
    return result ^ (result >> 47)


def hash64(list keys not None):
    """Return the 64-bit hashes of strings: MurmurHash64A, with the seed that TensorFlow uses.

    Parameters
    ----------
    keys : list of bytes

    Returns
    -------
    hashes : ndarray
        Shape ``(len(keys),)``, uint64.
    """
    cdef Py_ssize_t count = len(keys), index
    result = np.empty(count, np.uint64)
    cdef uint64_t[::1] view = result
    for index in range(count):
        key = <bytes?>keys[index]
        view[index] = _hash(PyBytes_AS_STRING(key), PyBytes_GET_SIZE(key))
    return result
