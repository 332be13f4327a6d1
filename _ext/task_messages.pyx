"""Messages about many small tasks, read and written at once: what protobuf would make an object of for each task.

Used by the task plane's services, agents and clients. Readers take what clients and workers of this project send as a rule, and
return None for everything else, be it unusual or broken: whoever calls them then asks protobuf, which has the last word.
Writers write what protobuf would, byte for byte; entries of maps in the order of the dictionary.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.object cimport PyObject, PyTypeObject
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcmp, memcpy

from runtime._ext.wirescan cimport (
    WIRE_BYTES, WIRE_VARINT, Cursor, Span, field_size, put_varint, read_span, read_tag, read_varint, varint_size,
)

cdef extern from "Python.h":
    const char *PyUnicode_AsUTF8AndSize(object text, Py_ssize_t *size) except NULL

cdef enum:
    # The most bytes that a message may have.
    MAX_BYTES = 0x7fffffff


# -- reading -----------------------------------------------------------------------------------------------------------


cdef inline Cursor _cursor(const uint8_t *p, int64_t n) noexcept nogil:
    cdef Cursor c
    c.base = c.p = p
    c.end = p + n
    return c


cdef inline str _text(Span span):
    return PyUnicode_DecodeUTF8(<const char *>span.p, span.n, NULL)


cdef inline bytes _bytes(Span span):
    return PyBytes_FromStringAndSize(<const char *>span.p, span.n)


cdef inline object _named(type kind, tuple fields):
    """Return a named tuple without the Python function that makes one from its arguments."""
    cdef tuple arguments = (fields,)
    return (<PyTypeObject *>tuple).tp_new(kind, <PyObject *>arguments, NULL)


cdef object _request(Span span, Py_ssize_t limit, type kind, type value_kind):
    """Return one task of a request, or None."""
    cdef Cursor c = _cursor(span.p, span.n)
    cdef uint32_t tag = 0
    cdef Span field
    cdef str task_id = None
    cdef str key = None
    cdef list dependencies = None
    cdef bytes payload = None
    while c.p < c.end:
        if read_tag(&c, &tag) or (tag & 7) != WIRE_BYTES or read_span(&c, &field):
            return None
        tag >>= 3
        if tag == 1:
            task_id = _text(field)
        elif tag == 2:
            if key is not None:
                return None
            key = _text(field)
        elif tag == 3:
            if dependencies is None:
                dependencies = []
            if field.n == 0:
                return None
            dependencies.append(_text(field))
        elif tag == 4 and field.n < limit:
            payload = _bytes(field)
        else:
            return None
    if not task_id or not key or not payload:
        return None
    if dependencies is not None and len(dependencies) > 1:
        dependencies = list(dict.fromkeys(dependencies))
    return _named(
        kind, (task_id, (key,), () if dependencies is None else tuple(dependencies), _named(value_kind, (payload, None)))
    )


def small_tasks(bytes request not None, Py_ssize_t limit, type kind not None, type value_kind not None):
    """Read a ``CreateSmallTaskRequest`` of tasks with one key each.

    Parameters
    ----------
    request : bytes
    limit : int
        Bytes that payloads are shorter than.
    kind, value_kind : type
        Named tuples: of id, keys, dependencies (each once) and payload; of bytes and None.

    Returns
    -------
    tuple of (str, bytes or None, list) or None
        The session's id, the options' message if there is one, the tasks, at least one, each with an id, a key and a
        payload that are not empty. None: ask protobuf.
    """
    cdef Cursor c = _cursor(<const uint8_t *>PyBytes_AS_STRING(request), PyBytes_GET_SIZE(request))
    cdef uint32_t tag = 0
    cdef Span field
    cdef str session_id = None
    cdef bytes options = None
    cdef list tasks = []
    if not issubclass(kind, tuple) or not issubclass(value_kind, tuple):
        raise TypeError(f"named tuples are needed, not {kind!r} and {value_kind!r}")
    try:
        while c.p < c.end:
            if read_tag(&c, &tag) or (tag & 7) != WIRE_BYTES or read_span(&c, &field):
                return None
            tag >>= 3
            if tag == 3:
                task = _request(field, limit, kind, value_kind)
                if task is None:
                    return None
                tasks.append(task)
            elif tag == 1:
                session_id = _text(field)
            elif tag == 2 and options is None:
                options = _bytes(field)
            else:
                return None
    except UnicodeDecodeError:
        return None
    return (session_id, options, tasks) if session_id and tasks else None


def simple_ends(bytes news not None, Py_ssize_t limit):
    """Read a ``TaskNews`` that tells of nothing but tasks that have ended with one value.

    Parameters
    ----------
    news : bytes
    limit : int
        Most bytes of a value.

    Returns
    -------
    list of (int, bytes, int) or None
        Number, value and microseconds of each. None: ask protobuf.
    """
    cdef Cursor c = _cursor(<const uint8_t *>PyBytes_AS_STRING(news), PyBytes_GET_SIZE(news))
    cdef Cursor inner
    cdef uint32_t tag = 0
    cdef Span field
    cdef Span value
    cdef uint64_t number, elapsed_us
    cdef list found = []
    while c.p < c.end:
        # end = 3
        if read_tag(&c, &tag) or tag != (3 << 3 | WIRE_BYTES) or read_span(&c, &field):
            return None
        inner = _cursor(field.p, field.n)
        number = elapsed_us = 0
        value.p = NULL
        while inner.p < inner.end:
            if read_tag(&inner, &tag):
                return None
            if tag == (1 << 3 | WIRE_VARINT):
                if read_varint(&inner, &number):
                    return None
            elif tag == (7 << 3 | WIRE_VARINT):
                if read_varint(&inner, &elapsed_us):
                    return None
            elif tag == (2 << 3 | WIRE_BYTES):
                if read_span(&inner, &value) or value.n > limit:
                    return None
            else:
                return None
        if value.p == NULL:
            return None
        found.append((number, _bytes(value), elapsed_us))
    return found


@cython.final
cdef class PlainOrder:
    """A ``BatchedTask`` without dependencies, whose payload is in it; read like the message."""

    cdef readonly uint64_t number
    cdef readonly str session_id
    cdef readonly str task_id
    cdef readonly tuple expected_output_key
    cdef readonly dict options
    cdef readonly bytes payload
    cdef readonly double max_duration_s
    cdef readonly bint is_announced

    @property
    def dependency(self):
        """Return the dependencies: none."""
        return ()

    def HasField(self, str name not None):
        """Return False: of the fields that may be missing, all are."""
        return False


def plain_orders(bytes orders not None):
    """Read a ``TaskOrders`` of nothing but tasks without dependencies and places.

    Returns
    -------
    list of PlainOrder or None
        None: ask protobuf.
    """
    cdef Cursor c = _cursor(<const uint8_t *>PyBytes_AS_STRING(orders), PyBytes_GET_SIZE(orders))
    cdef uint32_t tag = 0
    cdef Span field
    cdef list found = []
    try:
        while c.p < c.end:
            # task = 1
            if read_tag(&c, &tag) or tag != (1 << 3 | WIRE_BYTES) or read_span(&c, &field):
                return None
            order = _plain_order(field)
            if order is None:
                return None
            found.append(order)
    except UnicodeDecodeError:
        return None
    return found


cdef PlainOrder _plain_order(Span span):
    cdef Cursor c = _cursor(span.p, span.n)
    cdef uint32_t tag = 0
    cdef uint64_t value
    cdef Span field
    cdef PlainOrder order = PlainOrder.__new__(PlainOrder)
    cdef str key = None
    cdef list keys = None
    order.session_id = order.task_id = ""
    order.options = {}
    order.payload = b""
    while c.p < c.end:
        if read_tag(&c, &tag):
            return None
        if tag == (1 << 3 | WIRE_VARINT) or tag == (9 << 3 | WIRE_VARINT):
            if read_varint(&c, &value):
                return None
            if tag >> 3 == 1:
                order.number = value
            else:
                order.is_announced = value != 0
            continue
        if tag == (8 << 3 | 1):
            if c.end - c.p < 8:
                return None
            memcpy(&order.max_duration_s, c.p, 8)  # little-endian, as every machine this is built for
            c.p += 8
            continue
        if (tag & 7) != WIRE_BYTES or read_span(&c, &field):
            return None
        tag >>= 3
        if tag == 2:
            order.session_id = _text(field)
        elif tag == 3:
            order.task_id = _text(field)
        elif tag == 4 and key is None:
            key = _text(field)
        elif tag == 4:
            if keys is None:
                keys = [key]
            keys.append(_text(field))
        elif tag == 5:
            if not _add_entry(order.options, field):
                return None
        elif tag == 6:
            order.payload = _bytes(field)
        else:
            return None
    order.expected_output_key = tuple(keys) if keys is not None else () if key is None else (key,)
    return order


cdef bint _add_entry(dict entries, Span span) except -1:
    """Add an entry of a map of texts; tell whether it is one."""
    cdef Cursor c = _cursor(span.p, span.n)
    cdef uint32_t tag = 0
    cdef Span field
    cdef str key = ""
    cdef str value = ""
    while c.p < c.end:
        if read_tag(&c, &tag) or (tag & 7) != WIRE_BYTES or read_span(&c, &field):
            return False
        if tag >> 3 == 1:
            key = _text(field)
        elif tag >> 3 == 2:
            value = _text(field)
        else:
            return False
    entries[key] = value
    return True


def collected_values(bytes reply not None):
    """Read a ``CollectReply`` of results that are COMPLETED, each with its value.

    Returns
    -------
    list of (str, bytes) or None
        Key and value of each. None: ask protobuf.
    """
    cdef Cursor c = _cursor(<const uint8_t *>PyBytes_AS_STRING(reply), PyBytes_GET_SIZE(reply))
    cdef Cursor inner
    cdef uint32_t tag = 0
    cdef uint64_t num_bytes = 0
    cdef Span field
    cdef Span key
    cdef Span value
    cdef bint is_completed
    cdef list found = []
    try:
        while c.p < c.end:
            # result = 1
            if read_tag(&c, &tag) or tag != (1 << 3 | WIRE_BYTES) or read_span(&c, &field):
                return None
            inner = _cursor(field.p, field.n)
            key.p = value.p = NULL
            is_completed = False
            while inner.p < inner.end:
                if read_tag(&inner, &tag):
                    return None
                if tag == (3 << 3 | WIRE_VARINT):
                    if read_varint(&inner, &num_bytes):
                        return None
                    continue
                if (tag & 7) != WIRE_BYTES or read_span(&inner, &field):
                    return None
                if tag >> 3 == 1:
                    key = field
                elif tag >> 3 == 2:
                    is_completed = field.n == 9 and memcmp(field.p, b"COMPLETED", 9) == 0
                elif tag >> 3 == 4:
                    value = field
                else:
                    return None
            if key.p == NULL or value.p == NULL or not is_completed:
                return None
            found.append((_text(key), _bytes(value)))
    except UnicodeDecodeError:
        return None
    return found


# -- writing -----------------------------------------------------------------------------------------------------------


cdef class _Message:
    """Bytes that grow. Fields have numbers below 16."""

    cdef uint8_t *data  # owned
    cdef Py_ssize_t size
    cdef Py_ssize_t capacity

    def __cinit__(self):
        self.data = NULL
        self.size = self.capacity = 0

    def __dealloc__(self):
        free(self.data)

    def __len__(self):
        return self.size

    cdef int need(self, int64_t more) except -1:
        """Make room for so many bytes."""
        cdef uint8_t *data
        cdef int64_t capacity
        if self.size + more > MAX_BYTES:
            raise ValueError(f"a message of {self.size + more} bytes; it may have {MAX_BYTES}")
        if self.size + more > self.capacity:
            capacity = max(4096, 2 * (self.size + more))
            data = <uint8_t *>realloc(self.data, capacity)
            if data == NULL:
                raise MemoryError(f"{capacity} bytes for a message")
            self.data, self.capacity = data, capacity
        return 0

    cdef inline void put_number(self, uint32_t tag, uint64_t value) noexcept:
        """Write a varint; there is room."""
        self.data[self.size] = <uint8_t>tag
        self.size = put_varint(self.data + self.size + 1, value) - self.data

    cdef inline void put_bytes(self, uint32_t number, const char *p, Py_ssize_t n) noexcept:
        """Write a field with a length; there is room."""
        self.put_number(number << 3 | WIRE_BYTES, n)
        memcpy(self.data + self.size, p, n)
        self.size += n

    def tobytes(self):
        """Return the message."""
        return PyBytes_FromStringAndSize(<const char *>self.data, self.size)


cdef int64_t _pair_size(object key, object value) except -1:
    """Return the size of a message whose fields 1 and 2 are text and bytes, or text; protobuf leaves out empty ones."""
    cdef Py_ssize_t n = 0
    cdef int64_t size
    PyUnicode_AsUTF8AndSize(key, &n)
    size = field_size(n) if n else 0
    if isinstance(value, bytes):
        n = PyBytes_GET_SIZE(value)
    else:
        PyUnicode_AsUTF8AndSize(value, &n)
    return size + (field_size(n) if n else 0)


def ends_bytes(list ends not None):
    """Return a ``TaskNews`` of tasks that have ended with one value.

    Parameters
    ----------
    ends : list of tuple of (int, bytes, int)
        Number, value and microseconds of each.
    """
    cdef _Message message = _Message()
    cdef uint64_t number, elapsed_us
    cdef bytes value
    cdef int64_t size
    for item in ends:
        number, value, elapsed_us = item
        size = field_size(PyBytes_GET_SIZE(value))
        if number:
            size += 1 + varint_size(number)
        if elapsed_us:
            size += 1 + varint_size(elapsed_us)
        message.need(field_size(size))
        message.put_number(3 << 3 | WIRE_BYTES, size)
        if number:
            message.put_number(1 << 3 | WIRE_VARINT, number)
        message.put_bytes(2, PyBytes_AS_STRING(value), PyBytes_GET_SIZE(value))
        if elapsed_us:
            message.put_number(7 << 3 | WIRE_VARINT, elapsed_us)
    return message.tobytes()


@cython.final
cdef class OrdersWriter(_Message):
    """Writes a ``TaskOrders`` of tasks.

    Parameters
    ----------
    chunk_bytes, inline_bytes : int
        See the message; 0 for any but the first of a stream.
    """

    cdef uint32_t chunk_bytes
    cdef uint32_t inline_bytes
    cdef readonly Py_ssize_t num_tasks
    # What lies before the bytes in `data`.
    cdef list before

    def __init__(self, uint32_t chunk_bytes=0, uint32_t inline_bytes=0):
        self.chunk_bytes = chunk_bytes
        self.inline_bytes = inline_bytes
        self.num_tasks = 0
        self.before = []

    def add(
        self,
        uint64_t number,
        str session_id not None,
        str task_id not None,
        tuple keys not None,
        options,
        payload not None,
        list dependencies not None,
        double max_duration_s,
        bint is_announced,
    ):
        """Add a task.

        Parameters
        ----------
        options : mapping of str to str
        payload : bytes, or sequence of bytes-like
            A sequence becomes a part of the message as it is: nothing of it is copied, nor may it change.
        dependencies : list of tuple of (str, bytes)
            Key and value of each, in order.
        """
        cdef Py_ssize_t n_session = 0
        cdef Py_ssize_t n_id = 0
        cdef Py_ssize_t n = 0
        cdef const char *session = PyUnicode_AsUTF8AndSize(session_id, &n_session)
        cdef const char *name = PyUnicode_AsUTF8AndSize(task_id, &n_id)
        cdef const char *text
        cdef int64_t size = 1 + varint_size(number) if number else 0
        cdef int64_t pair
        cdef list pairs = []
        cdef list long_payload = None
        cdef int64_t n_payload = 0
        cdef str key
        if isinstance(payload, bytes):
            n_payload = PyBytes_GET_SIZE(payload)
        else:
            long_payload = [memoryview(piece).cast("B") for piece in payload]
            for piece in long_payload:
                n_payload += len(piece)
        if n_session:
            size += field_size(n_session)
        if n_id:
            size += field_size(n_id)
        for key in keys:
            PyUnicode_AsUTF8AndSize(key, &n)
            size += field_size(n)
        for item in options.items():
            pair = self._map_size(item[0], item[1])
            pairs.append(pair)
            size += field_size(pair)
        if n_payload:
            size += field_size(n_payload)
        for item in dependencies:
            pair = _pair_size(item[0], item[1])
            pairs.append(pair)
            size += field_size(pair)
        if max_duration_s:
            size += 9
        if is_announced:
            size += 2
        self.need(field_size(size) - (0 if long_payload is None else n_payload))
        self.put_number(1 << 3 | WIRE_BYTES, size)
        if number:
            self.put_number(1 << 3 | WIRE_VARINT, number)
        if n_session:
            self.put_bytes(2, session, n_session)
        if n_id:
            self.put_bytes(3, name, n_id)
        for key in keys:
            text = PyUnicode_AsUTF8AndSize(key, &n)
            self.put_bytes(4, text, n)
        pairs.reverse()
        for item in options.items():
            self.put_number(5 << 3 | WIRE_BYTES, pairs.pop())
            self._put_pair(item[0], item[1], True)
        if n_payload and long_payload is None:
            self.put_bytes(6, PyBytes_AS_STRING(payload), n_payload)
        for item in dependencies:
            self.put_number(7 << 3 | WIRE_BYTES, pairs.pop())
            self._put_pair(item[0], item[1], False)
        if max_duration_s:
            self.data[self.size] = 8 << 3 | 1
            memcpy(self.data + self.size + 1, &max_duration_s, 8)  # little-endian, as every machine this is built for
            self.size += 9
        if is_announced:
            self.put_number(9 << 3 | WIRE_VARINT, 1)
        self.num_tasks += 1
        if n_payload and long_payload is not None:
            self.put_number(6 << 3 | WIRE_BYTES, n_payload)
            self.before.append(PyBytes_FromStringAndSize(<const char *>self.data, self.size))
            self.before += long_payload
            self.size = 0

    @property
    def is_whole(self):
        """Whether the message is in one piece, so that `tobytes` copies no payload a second time."""
        return not self.before

    def parts(self):
        """Return the message in pieces."""
        return [*self.before, self._rest()]

    def tobytes(self):
        """Return the message."""
        return b"".join(self.parts()) if self.before else self._rest()

    cdef bytes _rest(self):
        self.need(12)
        if self.chunk_bytes:
            self.put_number(4 << 3 | WIRE_VARINT, self.chunk_bytes)
            self.chunk_bytes = 0
        if self.inline_bytes:
            self.put_number(5 << 3 | WIRE_VARINT, self.inline_bytes)
            self.inline_bytes = 0
        return PyBytes_FromStringAndSize(<const char *>self.data, self.size)

    cdef int64_t _map_size(self, str key, str value) except -1:
        """Return the size of an entry of a map, which has both of its fields, empty or not."""
        cdef Py_ssize_t n_key = 0
        cdef Py_ssize_t n_value = 0
        PyUnicode_AsUTF8AndSize(key, &n_key)
        PyUnicode_AsUTF8AndSize(value, &n_value)
        return field_size(n_key) + field_size(n_value)

    cdef int _put_pair(self, str key, object value, bint is_entry) except -1:
        cdef Py_ssize_t n = 0
        cdef const char *text = PyUnicode_AsUTF8AndSize(key, &n)
        if n or is_entry:
            self.put_bytes(1, text, n)
        if is_entry:
            text = PyUnicode_AsUTF8AndSize(value, &n)
        else:
            text, n = PyBytes_AS_STRING(value), PyBytes_GET_SIZE(value)
        if n or is_entry:
            self.put_bytes(2, text, n)
        return 0


@cython.final
cdef class CollectedWriter(_Message):
    """Writes a ``CollectReply``."""

    def add(self, str key not None, bytes value not None):
        """Add a result that is COMPLETED, with its value."""
        cdef Py_ssize_t n_key = 0
        cdef const char *text = PyUnicode_AsUTF8AndSize(key, &n_key)
        cdef Py_ssize_t n = PyBytes_GET_SIZE(value)
        cdef int64_t size = field_size(9) + field_size(n)
        if n_key:
            size += field_size(n_key)
        if n:
            size += 1 + varint_size(n)
        self.need(field_size(size))
        self.put_number(1 << 3 | WIRE_BYTES, size)
        if n_key:
            self.put_bytes(1, text, n_key)
        self.put_bytes(2, b"COMPLETED", 9)
        if n:
            self.put_number(3 << 3 | WIRE_VARINT, n)
        self.put_bytes(4, PyBytes_AS_STRING(value), n)

    def append(self, bytes message not None):
        """Add the results of another message of that kind."""
        cdef Py_ssize_t n = PyBytes_GET_SIZE(message)
        self.need(n)
        memcpy(self.data + self.size, PyBytes_AS_STRING(message), n)
        self.size += n


@cython.final
cdef class TasksWriter(_Message):
    """Writes a ``CreateSmallTaskRequest``.

    Parameters
    ----------
    head : bytes
        The request without its tasks.
    """

    def __init__(self, bytes head not None):
        cdef Py_ssize_t n = PyBytes_GET_SIZE(head)
        self.need(n)
        memcpy(self.data + self.size, PyBytes_AS_STRING(head), n)
        self.size += n

    def add(self, task_id, tuple keys not None, tuple dependencies not None, bytes payload not None):
        """Add a task."""
        cdef Py_ssize_t n_id = 0
        cdef Py_ssize_t n_payload = PyBytes_GET_SIZE(payload)
        cdef Py_ssize_t n = 0
        cdef const char *name = PyUnicode_AsUTF8AndSize(task_id, &n_id)
        cdef const char *text
        cdef int64_t size = field_size(n_id) if n_id else 0
        for key in keys:
            PyUnicode_AsUTF8AndSize(key, &n)
            size += field_size(n)
        for key in dependencies:
            PyUnicode_AsUTF8AndSize(key, &n)
            size += field_size(n)
        if n_payload:
            size += field_size(n_payload)
        self.need(field_size(size))
        self.put_number(3 << 3 | WIRE_BYTES, size)
        if n_id:
            self.put_bytes(1, name, n_id)
        for key in keys:
            text = PyUnicode_AsUTF8AndSize(key, &n)
            self.put_bytes(2, text, n)
        for key in dependencies:
            text = PyUnicode_AsUTF8AndSize(key, &n)
            self.put_bytes(3, text, n)
        if n_payload:
            self.put_bytes(4, PyBytes_AS_STRING(payload), n_payload)
