# cython: boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Reads batches of serialised Examples and SequenceExamples: the values of some features, one array a feature.

Callers are the kernels of the parsing ops. A parser is made once for a node's keys and types. The bytes are scanned
without the GIL; only the strings of bytes features are made with it. Every length is compared with what remains.

Wire format: Example and SequenceExample have Features at field 1, SequenceExample also FeatureLists at 2. Features and
FeatureLists are maps (entries at 1, each with key 1 and value 2) to Feature and FeatureList (Features at 1). A Feature
is one of BytesList (1), FloatList (2) and Int64List (3), whose values are at 1, numbers packed or not.
"""

import numpy as np

cimport cython
cimport numpy as cnp
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF, Py_XDECREF
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcmp, memcpy

from runtime._ext.running_step cimport stop_flag
from runtime._ext.wirescan cimport (WIRE_BYTES, WIRE_FIXED32, WIRE_VARINT, Cursor, Span, hash_bytes, read_span,
                                    read_tag, read_varint, skip_field)

cnp.import_array()

cdef enum Kind:
    NOTHING = 0
    BYTES = 1
    FLOATS = 2
    INT64S = 3

cdef enum Outcome:
    GOOD = 0
    DAMAGED = 1    # no such message
    OTHER_KIND = 2  # a feature of another type
    NO_MEMORY = 3

cdef enum:
    FIELD_1 = 1 << 3 | 2  # tags of length-delimited fields
    FIELD_2 = 2 << 3 | 2


cdef struct Values:  # a growing array of one feature's values; `data` is owned
    char *data
    int64_t used
    int64_t capacity
    int width  # bytes of an element


class ExampleFault(Exception):
    """Bytes that are no Example, or a feature of another type than was asked for.

    Attributes
    ----------
    example : int
        Place in the batch.
    feature : int
        Number of the feature among the parser's, context first; -1 where the message itself is damaged.
    kind : int
        What the feature is: 1 bytes, 2 floats, 3 integers.
    """

    def __init__(self, example: int, feature: int, kind: int) -> None:
        super().__init__(example, feature, kind)
        self.example = example
        self.feature = feature
        self.kind = kind


cdef inline char *_room(Values *values, int64_t count) noexcept nogil:
    """Return where `count` more elements may be written; NULL if there is no memory."""
    cdef int64_t needed = values.used + count
    cdef int64_t capacity
    cdef char *data
    if needed > values.capacity:
        capacity = max(needed, values.capacity * 2, 64)
        data = <char *>realloc(values.data, <size_t>(capacity * values.width))
        if data == NULL:
            return NULL
        values.data = data
        values.capacity = capacity
    return values.data + values.used * values.width


cdef int _read_strings(Cursor *c, Values *out) noexcept nogil:
    cdef uint32_t tag = 0
    cdef Span *place
    while c.p < c.end:
        if read_tag(c, &tag):
            return DAMAGED
        if tag == FIELD_1:
            place = <Span *>_room(out, 1)
            if place == NULL:
                return NO_MEMORY
            if read_span(c, place):
                return DAMAGED
            out.used += 1
        elif skip_field(c, tag):
            return DAMAGED
    return GOOD


cdef int _read_floats(Cursor *c, Values *out) noexcept nogil:
    cdef uint32_t tag = 0
    cdef Span packed
    cdef char *place
    while c.p < c.end:
        if read_tag(c, &tag):
            return DAMAGED
        if tag == FIELD_1:
            if read_span(c, &packed) or packed.n % 4:
                return DAMAGED
        elif tag == (1 << 3 | WIRE_FIXED32):
            if c.end - c.p < 4:
                return DAMAGED
            packed.p = c.p
            packed.n = 4
            c.p += 4
        else:
            if skip_field(c, tag):
                return DAMAGED
            continue
        if packed.n:
            place = _room(out, packed.n // 4)
            if place == NULL:
                return NO_MEMORY
            memcpy(place, packed.p, <size_t>packed.n)
            out.used += packed.n // 4
    return GOOD


cdef int _read_integers(Cursor *c, Values *out) noexcept nogil:
    cdef uint32_t tag = 0
    cdef uint64_t value = 0
    cdef Span packed
    cdef Cursor inner
    cdef uint64_t *place
    while c.p < c.end:
        if read_tag(c, &tag):
            return DAMAGED
        if tag == FIELD_1:
            if read_span(c, &packed):
                return DAMAGED
            if packed.n == 0:
                continue
            place = <uint64_t *>_room(out, packed.n)  # a number takes at least one byte
            if place == NULL:
                return NO_MEMORY
            inner.base = packed.p
            inner.p = packed.p
            inner.end = packed.p + packed.n
            while inner.p < inner.end:
                if read_varint(&inner, place):
                    return DAMAGED
                place += 1
                out.used += 1
        elif tag == (1 << 3 | WIRE_VARINT):
            if read_varint(c, &value):
                return DAMAGED
            place = <uint64_t *>_room(out, 1)
            if place == NULL:
                return NO_MEMORY
            place[0] = value
            out.used += 1
        elif skip_field(c, tag):
            return DAMAGED
    return GOOD


cdef int _read_feature(Span feature, int kind, Values *out, int64_t *count, int *found) noexcept nogil:
    """Append the values of a feature; `count` is -1 if it has none of the three lists."""
    cdef Cursor c
    cdef Span part
    cdef uint32_t tag = 0
    cdef int64_t before = out.used
    cdef int status = GOOD
    c.base = feature.p
    c.p = feature.p
    c.end = feature.p + feature.n
    count[0] = -1
    part.p = NULL
    part.n = 0
    found[0] = NOTHING
    while c.p < c.end:  # of several lists the last one counts
        if read_tag(&c, &tag):
            return DAMAGED
        if (tag & 7) == WIRE_BYTES and 1 <= tag >> 3 <= 3:
            if read_span(&c, &part):
                return DAMAGED
            found[0] = <int>(tag >> 3)
        elif skip_field(&c, tag):
            return DAMAGED
    if found[0] == NOTHING:
        return GOOD
    if found[0] != kind:
        return OTHER_KIND
    c.base = part.p
    c.p = part.p
    c.end = part.p + part.n
    if kind == BYTES:
        status = _read_strings(&c, out)
    elif kind == FLOATS:
        status = _read_floats(&c, out)
    else:
        status = _read_integers(&c, out)
    count[0] = out.used - before
    return status


@cython.final
cdef class Features:
    """The features that are asked for, found by key; internal to this module."""

    cdef readonly list keys
    cdef int size
    cdef int *kinds
    cdef Span *names
    cdef int32_t *table
    cdef uint64_t mask
    cdef Values *values
    cdef Span *found

    def __cinit__(self, keys, kinds):
        cdef int place
        cdef uint64_t slot
        self.keys = [bytes(key) for key in keys]
        self.size = <int>len(self.keys)
        self.mask = 7
        while self.mask < <uint64_t>self.size * 2:
            self.mask = self.mask * 2 + 1
        self.kinds = <int *>PyMem_Malloc(max(1, self.size) * sizeof(int))
        self.names = <Span *>PyMem_Malloc(max(1, self.size) * sizeof(Span))
        self.found = <Span *>PyMem_Malloc(max(1, self.size) * sizeof(Span))
        self.table = <int32_t *>PyMem_Malloc((self.mask + 1) * sizeof(int32_t))
        self.values = <Values *>PyMem_Malloc(max(1, self.size) * sizeof(Values))
        if self.values == NULL or self.table == NULL or self.found == NULL or self.names == NULL or self.kinds == NULL:
            raise MemoryError()
        for place in range(self.size):
            self.values[place].data = NULL
            self.values[place].used = 0
            self.values[place].capacity = 0
        for slot in range(self.mask + 1):
            self.table[slot] = -1
        for place in range(self.size):
            self.kinds[place] = kinds[place]
            if not 1 <= self.kinds[place] <= 3:
                raise ValueError(f"kind of feature {place} must be 1, 2 or 3, not {self.kinds[place]}")
            self.values[place].width = sizeof(Span) if self.kinds[place] == BYTES else (
                4 if self.kinds[place] == FLOATS else 8)
            self.names[place].p = <const uint8_t *>PyBytes_AS_STRING(self.keys[place])
            self.names[place].n = PyBytes_GET_SIZE(self.keys[place])
            if self.lookup(self.names[place]) >= 0:
                raise ValueError(f"feature key {self.keys[place]!r} is asked for twice")
            slot = hash_bytes(self.names[place].p, self.names[place].n) & self.mask
            while self.table[slot] >= 0:
                slot = (slot + 1) & self.mask
            self.table[slot] = place

    def __dealloc__(self):
        cdef int place
        if self.values != NULL:
            for place in range(self.size):
                free(self.values[place].data)
        PyMem_Free(self.values)
        PyMem_Free(self.kinds)
        PyMem_Free(self.names)
        PyMem_Free(self.found)
        PyMem_Free(self.table)

    cdef inline int lookup(self, Span key) noexcept nogil:
        """Return the number of a feature, -1 if nobody asked for it."""
        cdef uint64_t slot = hash_bytes(key.p, key.n) & self.mask
        cdef int32_t place
        while True:
            place = self.table[slot]
            if place < 0:
                return -1
            if self.names[place].n == key.n and memcmp(self.names[place].p, key.p, <size_t>key.n) == 0:
                return place
            slot = (slot + 1) & self.mask

    cdef void forget(self) noexcept nogil:
        """Start a new example."""
        cdef int place
        for place in range(self.size):
            self.found[place].p = NULL

    cdef int scan(self, Span message) noexcept nogil:
        """Note where the values of a map are whose keys are asked for; of equal keys the last one counts."""
        cdef Cursor c
        cdef Cursor entry
        cdef Span part
        cdef Span key
        cdef Span value
        cdef uint32_t tag = 0
        cdef int place
        c.base = message.p
        c.p = message.p
        c.end = message.p + message.n
        while c.p < c.end:
            if read_tag(&c, &tag):
                return DAMAGED
            if tag != FIELD_1:
                if skip_field(&c, tag):
                    return DAMAGED
                continue
            if read_span(&c, &part):
                return DAMAGED
            entry.base = part.p
            entry.p = part.p
            entry.end = part.p + part.n
            key.p = part.p
            key.n = 0
            value.p = part.p
            value.n = 0
            while entry.p < entry.end:
                if read_tag(&entry, &tag):
                    return DAMAGED
                if tag == FIELD_1:
                    if read_span(&entry, &key):
                        return DAMAGED
                elif tag == FIELD_2:
                    if read_span(&entry, &value):
                        return DAMAGED
                elif skip_field(&entry, tag):
                    return DAMAGED
            place = self.lookup(key)
            if place >= 0:
                self.found[place] = value
        return GOOD

    cdef object take(self):
        """Return the values of every feature as an array, and start anew."""
        cdef int place
        cdef Values *values
        cdef cnp.ndarray array
        cdef Py_ssize_t index
        cdef PyObject **objects
        cdef Span *spans
        cdef object item
        result = []
        for place in range(self.size):
            values = &self.values[place]
            if self.kinds[place] == BYTES:
                array = np.empty(values.used, object)
                objects = <PyObject **>cnp.PyArray_DATA(array)
                spans = <Span *>values.data
                for index in range(values.used):
                    item = PyBytes_FromStringAndSize(<const char *>spans[index].p, spans[index].n)
                    Py_INCREF(item)
                    Py_XDECREF(objects[index])
                    objects[index] = <PyObject *>item
            else:
                array = np.empty(values.used, np.float32 if self.kinds[place] == FLOATS else np.int64)
                if values.used:
                    memcpy(cnp.PyArray_DATA(array), values.data, <size_t>(values.used * values.width))
            result.append(array)
        self.clear()
        return result

    cdef void clear(self) noexcept:
        """Drop what was read, and memory that few examples need."""
        cdef int place
        for place in range(self.size):
            self.values[place].used = 0
            if self.values[place].capacity > 1 << 16:
                free(self.values[place].data)
                self.values[place].data = NULL
                self.values[place].capacity = 0


cdef int _fields(Span message, Features features, Features lists, bint sequences) noexcept nogil:
    """Scan one Example, or SequenceExample."""
    cdef Cursor c
    cdef Span part
    cdef uint32_t tag = 0
    c.base = message.p
    c.p = message.p
    c.end = message.p + message.n
    features.forget()
    lists.forget()
    while c.p < c.end:
        if read_tag(&c, &tag):
            return DAMAGED
        if tag == FIELD_1:
            if read_span(&c, &part) or features.scan(part):
                return DAMAGED
        elif tag == FIELD_2 and sequences:
            if read_span(&c, &part) or lists.scan(part):
                return DAMAGED
        elif skip_field(&c, tag):
            return DAMAGED
    return GOOD


cdef int _read_list(Features features, int place, Values *counts, int64_t *frames, int *kind) noexcept nogil:
    """Append the values of a FeatureList, and how many each of its features has."""
    cdef Cursor c
    cdef Span part
    cdef uint32_t tag = 0
    cdef int64_t *count
    cdef int status
    c.base = features.found[place].p
    c.p = c.base
    c.end = c.base + features.found[place].n
    frames[0] = 0
    while c.p < c.end:
        if read_tag(&c, &tag):
            return DAMAGED
        if tag != FIELD_1:
            if skip_field(&c, tag):
                return DAMAGED
            continue
        if read_span(&c, &part):
            return DAMAGED
        count = <int64_t *>_room(counts, 1)
        if count == NULL:
            return NO_MEMORY
        status = _read_feature(part, features.kinds[place], &features.values[place], count, kind)
        if status:
            return status
        counts.used += 1
        frames[0] += 1
    return GOOD


@cython.final
cdef class ExampleParser:
    """Reads some features of Examples, or of SequenceExamples.

    Parameters
    ----------
    keys : sequence of bytes
        Features of an Example, or of the context of a SequenceExample.
    kinds : sequence of int
        1 for bytes, 2 for floats, 3 for integers; one for each key.
    list_keys, list_kinds : sequence, optional
        The same for the feature lists of SequenceExamples.

    Raises
    ------
    ValueError
        If a key occurs twice, or a kind is none.

    Notes
    -----
    A parser holds buffers: calls from several threads must not overlap.
    """

    cdef Features features
    cdef Features lists
    cdef bint sequences

    def __cinit__(self, keys, kinds, list_keys=None, list_kinds=()):
        self.features = Features(keys, kinds)
        self.sequences = list_keys is not None
        self.lists = Features(list_keys if self.sequences else (), list_kinds)

    def parse(self, list serialized not None):
        """Read a batch.

        Parameters
        ----------
        serialized : list of bytes

        Returns
        -------
        counts : int64 (features, batch)
            Values that each example has of a feature; -1 where it has no such feature.
        values : list of ndarray
            All values of a feature, example by example: float32, int64 or objects (bytes).
        frames : int64 (lists, batch)
            Features in each feature list, -1 where there is none.
        frame_counts : list of int64 ndarray
            For each list the number of values of each of its features, -1 for an empty feature.
        list_values : list of ndarray

        Raises
        ------
        ExampleFault
        """
        cdef Py_ssize_t batch = len(serialized)
        cdef Features features = self.features
        cdef Features lists = self.lists
        cdef bint sequences = self.sequences
        cdef const int *stop = stop_flag()
        cdef Py_ssize_t example = 0
        cdef int status = GOOD, place = -1, kind = 0, number
        cdef Span *messages = <Span *>PyMem_Malloc(max(1, batch) * sizeof(Span))
        cdef Values *frame_counts = <Values *>PyMem_Malloc(max(1, lists.size) * sizeof(Values))
        counts = np.full((features.size, batch), -1, np.int64)
        frames = np.full((lists.size, batch), -1, np.int64)
        cdef int64_t[:, ::1] count_view = counts
        cdef int64_t[:, ::1] frame_view = frames
        cdef bytes item
        cdef cnp.ndarray copied
        if messages == NULL or frame_counts == NULL:
            PyMem_Free(messages)
            PyMem_Free(frame_counts)
            raise MemoryError()
        for number in range(lists.size):
            frame_counts[number].data = NULL
            frame_counts[number].used = 0
            frame_counts[number].capacity = 0
            frame_counts[number].width = sizeof(int64_t)
        try:
            for example in range(batch):
                item = serialized[example]
                messages[example].p = <const uint8_t *>PyBytes_AS_STRING(item)
                messages[example].n = PyBytes_GET_SIZE(item)
            with nogil:
                example = 0
                while example < batch and status == GOOD and (stop == NULL or stop[0] == 0):
                    place = -1
                    status = _fields(messages[example], features, lists, sequences)
                    if status == GOOD:
                        for number in range(features.size):
                            if features.found[number].p != NULL:
                                status = _read_feature(features.found[number], features.kinds[number],
                                                       &features.values[number], &count_view[number, example], &kind)
                                if status:
                                    place = number
                                    break
                    if status == GOOD:
                        for number in range(lists.size):
                            if lists.found[number].p != NULL:
                                status = _read_list(lists, number, &frame_counts[number],
                                                    &frame_view[number, example], &kind)
                                if status:
                                    place = features.size + number
                                    break
                    if status == GOOD:
                        example += 1
            if status == NO_MEMORY:
                raise MemoryError()
            if status:
                raise ExampleFault(example, place if status == OTHER_KIND else -1, kind)
            lengths = []
            for number in range(lists.size):
                copied = np.empty(frame_counts[number].used, np.int64)
                if frame_counts[number].used:
                    memcpy(cnp.PyArray_DATA(copied), frame_counts[number].data,
                           <size_t>(frame_counts[number].used * sizeof(int64_t)))
                lengths.append(copied)
            return counts, features.take(), frames, lengths, lists.take()
        finally:
            for number in range(lists.size):
                free(frame_counts[number].data)
            PyMem_Free(frame_counts)
            PyMem_Free(messages)
            features.clear()
            lists.clear()
