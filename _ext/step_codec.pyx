"""Reads and writes RunStep and RunCallable messages: the tensors directly, names from caches, the rest as it lies.

``scan_*`` take serialized messages and give arrays that are views into them; ``encode_*`` and the plans give the bytes
that are sent. RunOptions and RunMetadata pass through as raw bytes.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.ref cimport PyObject
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy

from runtime._ext.name_cache cimport cached_name
from runtime._ext.tensor_decode cimport Budget, make_budget
from runtime._ext.tensor_fields cimport (SpanList, TensorFields, add_span, bytes_field, decode_field, free_spans,
                                         int_field, join_spans, open_message, scan_named_tensor, start_spans,
                                         text_field)
from runtime._ext.wirefault cimport raise_wire
from runtime._ext.wirescan cimport (WIRE_BYTES, WIRE_VARINT, Cursor, Span, hash_bytes, put_varint, read_span, read_tag,
                                    read_varint, skip_field, varint_size)

from runtime._ext.errors import Error, InvalidArgument

cdef extern from "Python.h":
    void incref "Py_INCREF"(PyObject* ref) noexcept
    void xdecref "Py_XDECREF"(PyObject* ref) noexcept

cdef enum:
    # Keys up to this size are built on the stack.
    KEY_STACK_BYTES = 1024
    # A process has few different steps; each signature has one slot, which a newcomer takes over. The two bounds
    # together keep the cache below some 10 MiB whatever is sent.
    NUM_SIGNATURE_SLOTS = 512
    MAX_CACHED_KEY_BYTES = 8192
    F1 = 1 << 3 | 2
    F2 = 2 << 3 | 2
    F3 = 3 << 3 | 2
    F4 = 4 << 3 | 2
    F5 = 5 << 3 | 2
    F6 = 6 << 3 | 2


@cython.final
@cython.no_gc
cdef class _Signature:
    """What requests for the same step share. Holds strings and bytes only, hence no cycles."""
    cdef bytes key
    cdef tuple feed_names
    cdef tuple fetches
    cdef tuple targets
    cdef bytes options


cdef PyObject* _signatures[NUM_SIGNATURE_SLOTS]


@cython.final
@cython.freelist(16)
cdef class RunStepCall:
    """One RunStepRequest, read.

    Attributes
    ----------
    session_handle, partial_run_handle : str
        Empty where the request has none.
    key : bytes
        Equal for two requests exactly when they agree in feed names with their order, fetches, targets and raw options;
        for looking up the compiled step.
    feed_names : tuple of str
    feed_values : list of numpy.ndarray
        In the order of ``feed_names``; views into the request where the encoding allows.
    feed_datatypes : list of int
        DataType numbers, likewise.
    fetches, targets : tuple of str
        As in the request, duplicates included.
    options : bytes or None
        The serialized RunOptions; None when the field is absent.
    store_errors_in_response_body : bool
    request_id : int
        Signed 64 bits, 0 when absent.
    """
    cdef readonly str session_handle
    cdef readonly bytes key
    cdef readonly tuple feed_names
    cdef readonly list feed_values
    cdef readonly list feed_datatypes
    cdef readonly tuple fetches
    cdef readonly tuple targets
    cdef readonly bytes options
    cdef readonly str partial_run_handle
    cdef readonly bint store_errors_in_response_body
    cdef readonly int64_t request_id

    @property
    def feeds(self):
        """Pairs of feed name and array, in the order of the request."""
        return list(zip(self.feed_names, self.feed_values))


cdef inline uint8_t* _put_spans(uint8_t* p, SpanList* spans) noexcept:
    cdef int64_t i
    p = put_varint(p, <uint64_t>spans.n)
    for i in range(spans.n):
        p = put_varint(p, <uint64_t>spans.items[i].n)
        memcpy(p, spans.items[i].p, spans.items[i].n)
        p += spans.items[i].n
    return p


cdef inline int64_t _spans_size(SpanList* spans) noexcept:
    cdef int64_t i
    cdef int64_t size = varint_size(<uint64_t>spans.n)
    for i in range(spans.n):
        size += varint_size(<uint64_t>spans.items[i].n) + spans.items[i].n
    return size


cdef tuple _names(SpanList* spans, const uint8_t* base, str message, int field):
    return tuple([cached_name(spans.items[i], base, message, field) for i in range(spans.n)])


cdef _Signature _find_signature(SpanList* feeds, SpanList* fetches, SpanList* targets, Span* options,
                                const uint8_t* base):
    """Return the signature of these names and options, from the cache where it is there."""
    cdef uint8_t stack[KEY_STACK_BYTES]
    cdef uint8_t* key = stack
    cdef uint8_t* p
    cdef bytes key_object = None
    cdef PyObject** slot = NULL
    cdef PyObject* old
    cdef _Signature signature
    cdef int64_t size = _spans_size(feeds) + _spans_size(fetches) + _spans_size(targets) + 1
    if options.p != NULL:
        size += options.n
    if size > KEY_STACK_BYTES:
        key_object = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>size)
        key = <uint8_t*>PyBytes_AS_STRING(key_object)
    p = _put_spans(key, feeds)
    p = _put_spans(p, fetches)
    p = _put_spans(p, targets)
    p[0] = options.p != NULL
    if options.p != NULL:
        memcpy(p + 1, options.p, options.n)
    if size <= MAX_CACHED_KEY_BYTES:
        slot = &_signatures[hash_bytes(key, size) % NUM_SIGNATURE_SLOTS]
        if slot[0] != NULL:
            signature = <_Signature>slot[0]
            if PyBytes_GET_SIZE(signature.key) == size and memcmp(PyBytes_AS_STRING(signature.key), key, size) == 0:
                return signature
    signature = _Signature.__new__(_Signature)
    signature.key = PyBytes_FromStringAndSize(<char*>stack, <Py_ssize_t>size) if key_object is None else key_object
    signature.feed_names = _names(feeds, base, "NamedTensorProto", 1)
    signature.fetches = _names(fetches, base, "RunStepRequest", 3)
    signature.targets = _names(targets, base, "RunStepRequest", 4)
    if options.p != NULL:
        signature.options = options.p[:options.n]
    if slot != NULL:
        incref(<PyObject*>signature)
        old = slot[0]
        slot[0] = <PyObject*>signature
        xdecref(old)
    return signature


cdef int _scan_feeds(RunStepCall call, bytes request, SpanList* feeds, SpanList* fetches, SpanList* targets,
                     Span* options, Budget* budget) except -1:
    cdef const uint8_t* base = <const uint8_t*>PyBytes_AS_STRING(request)
    cdef SpanList names
    cdef Span name, tensor
    cdef _Signature signature
    cdef bytes owner
    cdef dict joined = None
    cdef int64_t i
    cdef int datatype = 0
    start_spans(&names)
    try:
        for i in range(feeds.n):
            owner = scan_named_tensor(request, feeds.items[i], &name, &tensor)
            if owner is not request:
                if joined is None:
                    joined = {}
                joined[i] = owner
            add_span(&names, name)
            feeds.items[i] = tensor
        signature = _find_signature(&names, fetches, targets, options, base)
    finally:
        free_spans(&names)
    call.key = signature.key
    call.feed_names = signature.feed_names
    call.fetches = signature.fetches
    call.targets = signature.targets
    call.options = signature.options
    for i in range(feeds.n):
        owner = request if joined is None else joined.get(i, request)
        call.feed_values.append(decode_field(owner, feeds.items[i], budget, "RunStepRequest.feed", i,
                                             call.feed_names[i], &datatype))
        call.feed_datatypes.append(datatype)
    return 0


def scan_run_step(bytes request not None, max_bytes=None):
    """Read a serialized RunStepRequest.

    Parameters
    ----------
    request : bytes
    max_bytes : int, optional
        Limit on what all feeds together may allocate beyond views, in bytes.

    Returns
    -------
    RunStepCall

    Raises
    ------
    InvalidArgument
        The message is damaged, or a feed cannot be decoded: the text then names the feed. Where the outer fields could
        be read, the error has an attribute ``call``, a RunStepCall without the feeds that failed, so that the answer can
        go where ``store_errors_in_response_body`` says.
    ResourceExhausted
        The feeds would take more than ``max_bytes``. Has ``call`` too.

    Notes
    -----
    Safe from several threads.
    """
    cdef Budget budget = make_budget(max_bytes)
    cdef Cursor c = open_message(request)
    cdef SpanList feeds, fetches, targets, option_parts
    cdef Span span, session, partial, options
    cdef uint32_t tag
    cdef uint64_t value = 0
    cdef int status
    cdef bytes merged_options
    cdef RunStepCall call = RunStepCall.__new__(RunStepCall)
    call.feed_names = call.fetches = call.targets = ()
    call.feed_values = []
    call.feed_datatypes = []
    call.key = b""
    session.n = partial.n = options.n = 0
    options.p = session.p = partial.p = NULL
    start_spans(&feeds)
    start_spans(&fetches)
    start_spans(&targets)
    start_spans(&option_parts)
    try:
        while c.p < c.end:
            tag = 0
            status = read_tag(&c, &tag)
            if not status:
                if tag == F2 or tag == F3 or tag == F4:
                    status = read_span(&c, &span)
                    if not status:
                        add_span(&feeds if tag == F2 else &fetches if tag == F3 else &targets, span)
                elif tag == F1:
                    status = read_span(&c, &session)
                elif tag == F5:
                    status = read_span(&c, &options)
                    if not status:
                        add_span(&option_parts, options)
                elif tag == F6:
                    status = read_span(&c, &partial)
                elif tag == (7 << 3 | WIRE_VARINT):
                    status = read_varint(&c, &value)
                    call.store_errors_in_response_body = value != 0
                elif tag == (8 << 3 | WIRE_VARINT):
                    status = read_varint(&c, &value)
                    call.request_id = <int64_t>value
                else:
                    status = skip_field(&c, tag)
            if status:
                raise_wire("RunStepRequest", tag, status, &c)
        if option_parts.n > 1:
            merged_options = join_spans(&option_parts)
            options.p = <const uint8_t*>PyBytes_AS_STRING(merged_options)
            options.n = PyBytes_GET_SIZE(merged_options)
        call.session_handle = cached_name(session, c.base, "RunStepRequest", 1)
        call.partial_run_handle = cached_name(partial, c.base, "RunStepRequest", 6)
        try:
            _scan_feeds(call, request, &feeds, &fetches, &targets, &options, &budget)
        except Error as error:
            error.call = call
            raise
        return call
    finally:
        free_spans(&feeds)
        free_spans(&fetches)
        free_spans(&targets)
        free_spans(&option_parts)


@cython.final
cdef class ResponsePlan:
    """Writes the RunStepResponses of one step: names and types prepared once, arrays given each time.

    Parameters
    ----------
    names : sequence of str
        Fetch names, exactly as in the request.
    datatypes : sequence of int, optional
        DataType of each fetch; 0 or no sequence takes that of the array.

    Notes
    -----
    Immutable, safe from several threads.
    """
    cdef TensorFields _fields

    def __init__(self, names, datatypes=None):
        self._fields = TensorFields(1, names, datatypes)

    @property
    def names(self):
        return self._fields.names

    @property
    def datatypes(self):
        return self._fields.datatypes

    def encode(self, arrays not None, bytes metadata=None, bint apart=False):
        """Return the serialized RunStepResponse.

        Parameters
        ----------
        arrays : sequence of numpy.ndarray
            One for each name, in that order.
        metadata : bytes, optional
            Serialized RunMetadata; ``b""`` writes an empty one, None leaves the field out.
        apart : bool
            Return a `MessageParts` in place of bytes when an array is large: it shares the array's memory.

        Raises
        ------
        InvalidArgument
            The number of arrays is wrong, or one cannot be sent as its type: the text names it.
        ResourceExhausted
            The message would exceed protobuf's 2 GiB.
        """
        return self._fields.assemble(b"", arrays, _metadata_field(metadata), apart)


cdef bytes _metadata_field(bytes metadata):
    if metadata is None:
        return b""
    return bytes_field(2, metadata) if metadata else b"\x12\x00"


cdef bytes _joined(list parts):
    """Merge the occurrences of a message field, which is to join their bytes; None when there is none."""
    return b"".join(parts) if parts else None


def scan_last(bytes message not None, int number):
    """Return the content of the last field of a number in a message, for what is not in its published definition.

    Returns
    -------
    bytes or None
        None where there is no such field, or the message is damaged before it.

    Notes
    -----
    Takes some ten nanoseconds for each field of the message. Safe from several threads.
    """
    cdef Cursor c = open_message(message)
    cdef Span span, found
    cdef uint32_t tag = 0
    found.p = NULL
    while c.p < c.end and not read_tag(&c, &tag):
        if tag == (<uint32_t>number << 3 | WIRE_BYTES):
            if read_span(&c, &span):
                break
            found = span
        elif skip_field(&c, tag):
            break
    return None if found.p == NULL else found.p[:found.n]


def encode_run_step_response(names not None, arrays not None, datatypes=None, bytes metadata=None):
    """Return a serialized RunStepResponse; see ``ResponsePlan``, which is faster for a step that runs again."""
    return TensorFields(1, names, datatypes).assemble(b"", arrays, _metadata_field(metadata))


def encode_run_step_error(int code, str message not None, bytes metadata=None):
    """Return a serialized RunStepResponse that carries an error in its body.

    Parameters
    ----------
    code : int
        Status code, not 0.
    message : str
    metadata : bytes, optional
        Serialized RunMetadata.
    """
    return _metadata_field(metadata) + int_field(3, code) + text_field(4, message)


@cython.final
cdef class RequestPlan:
    """Writes the RunStepRequests of one step: names and options prepared once, feeds given each time.

    Parameters
    ----------
    session_handle : str
    feed_names, fetches, targets : sequence of str
    options : bytes, optional
        Serialized RunOptions.
    partial_run_handle : str
    store_errors : bool
        Ask for errors in the body of the response.
    feed_datatypes : sequence of int, optional
        DataType of each feed; 0 or no sequence takes that of the array.
    more : bytes
        Further fields, as they are written.

    Notes
    -----
    Immutable, safe from several threads.
    """
    cdef TensorFields _fields
    cdef bytes _head
    cdef bytes _tail

    def __init__(self, session_handle, feed_names=(), fetches=(), targets=(), bytes options=None,
                 partial_run_handle="", bint store_errors=True, feed_datatypes=None, bytes more=b""):
        self._fields = TensorFields(2, feed_names, feed_datatypes)
        self._head = text_field(1, session_handle)
        # An empty name is written all the same: it has its place in a repeated field.
        parts = [text_field(3, name) or b"\x1a\x00" for name in fetches]
        parts += [text_field(4, name) or b"\x22\x00" for name in targets]
        if options is not None:
            parts.append(bytes_field(5, options))
        parts.append(text_field(6, partial_run_handle))
        parts.append(int_field(7, store_errors))
        parts.append(more)
        self._tail = b"".join(parts)

    def encode(self, feed_values=(), request_id=0):
        """Return the serialized RunStepRequest.

        Parameters
        ----------
        feed_values : sequence of numpy.ndarray
            One for each feed name, in that order.
        request_id : int
            Signed 64 bits; 0 leaves the field out.

        Raises
        ------
        InvalidArgument
            The number of arrays is wrong, or one cannot be sent as its type: the text names it.
        """
        return self._fields.assemble(self._head, feed_values, self._tail + int_field(8, request_id))


def encode_run_step_request(session_handle, feed_names=(), feed_values=(), fetches=(), targets=(), bytes options=None,
                            partial_run_handle="", bint store_errors=True, request_id=0, feed_datatypes=None):
    """Return a serialized RunStepRequest; see ``RequestPlan``, which is faster for a step that runs again."""
    plan = RequestPlan(session_handle, feed_names, fetches, targets, options, partial_run_handle, store_errors,
                       feed_datatypes)
    return plan.encode(feed_values, request_id)


def scan_run_step_response(bytes response not None, max_bytes=None):
    """Read a serialized RunStepResponse.

    Returns
    -------
    tuple of (list of str, list of numpy.ndarray, int, str, bytes or None)
        Names, arrays (views where the encoding allows), status code (0 is success), status message, and the serialized
        RunMetadata, None when absent.

    Raises
    ------
    InvalidArgument
        The message is damaged or a tensor cannot be decoded: the text names it.
    ResourceExhausted
        The tensors would take more than ``max_bytes``.
    """
    cdef Budget budget = make_budget(max_bytes)
    cdef Cursor c = open_message(response)
    cdef Span span, name, tensor
    cdef Span message
    cdef uint32_t tag
    cdef uint64_t value = 0
    cdef int32_t code = 0
    cdef int datatype = 0
    cdef int status
    cdef list names = []
    cdef list arrays = []
    cdef list metadata = []
    cdef bytes owner
    message.p = NULL
    message.n = 0
    while c.p < c.end:
        tag = 0
        status = read_tag(&c, &tag)
        if not status:
            if tag == F1:
                status = read_span(&c, &span)
                if not status:
                    owner = scan_named_tensor(response, span, &name, &tensor)
                    text = cached_name(name, c.base, "NamedTensorProto", 1)
                    names.append(text)
                    arrays.append(decode_field(owner, tensor, &budget, "RunStepResponse.tensor", len(arrays), text,
                                               &datatype))
            elif tag == F2:
                status = read_span(&c, &span)
                if not status:
                    metadata.append(span.p[:span.n])
            elif tag == (3 << 3 | WIRE_VARINT):
                status = read_varint(&c, &value)
                code = <int32_t>value
            elif tag == F4:
                status = read_span(&c, &message)
            else:
                status = skip_field(&c, tag)
        if status:
            raise_wire("RunStepResponse", tag, status, &c)
    return names, arrays, code, cached_name(message, c.base, "RunStepResponse", 4), _joined(metadata)


def scan_run_callable(bytes request not None, max_bytes=None):
    """Read a serialized RunCallableRequest.

    Returns
    -------
    tuple of (str, int, list of numpy.ndarray, int)
        Session handle, callable handle, feeds by position, request id.

    Raises
    ------
    InvalidArgument
        The message is damaged or a feed cannot be decoded: the text names its position.
    ResourceExhausted
        The feeds would take more than ``max_bytes``.
    """
    cdef Budget budget = make_budget(max_bytes)
    cdef Cursor c = open_message(request)
    cdef Span span, session
    cdef uint32_t tag
    cdef uint64_t value = 0
    cdef int64_t handle = 0
    cdef int64_t request_id = 0
    cdef int datatype = 0
    cdef int status
    cdef list arrays = []
    session.p = NULL
    session.n = 0
    while c.p < c.end:
        tag = 0
        status = read_tag(&c, &tag)
        if not status:
            if tag == F3:
                status = read_span(&c, &span)
                if not status:
                    arrays.append(decode_field(request, span, &budget, "RunCallableRequest.feed", len(arrays), None,
                                               &datatype))
            elif tag == F1:
                status = read_span(&c, &session)
            elif tag == (2 << 3 | WIRE_VARINT):
                status = read_varint(&c, &value)
                handle = <int64_t>value
            elif tag == (4 << 3 | WIRE_VARINT):
                status = read_varint(&c, &value)
                request_id = <int64_t>value
            else:
                status = skip_field(&c, tag)
        if status:
            raise_wire("RunCallableRequest", tag, status, &c)
    return cached_name(session, c.base, "RunCallableRequest", 1), handle, arrays, request_id


def encode_run_callable_request(session_handle, handle, feed_values=(), request_id=0, feed_datatypes=None,
                                bytes more=b""):
    """Return a serialized RunCallableRequest.

    Parameters
    ----------
    session_handle : str
    handle : int
        Callable handle.
    feed_values : sequence of numpy.ndarray
        By position.
    request_id : int
        Signed 64 bits.
    feed_datatypes : sequence of int, optional
        DataType of each feed; 0 or no sequence takes that of the array.
    more : bytes
        Further fields, as they are written.
    """
    cdef bytes head = text_field(1, session_handle) + int_field(2, handle)
    return TensorFields(3, None, feed_datatypes).assemble(head, feed_values, int_field(4, request_id) + more)


def encode_run_callable_response(arrays not None, datatypes=None, bytes metadata=None, bint apart=False):
    """Return a serialized RunCallableResponse.

    Parameters
    ----------
    arrays : sequence of numpy.ndarray
        Fetches by position.
    datatypes : sequence of int, optional
        DataType of each fetch; 0 or no sequence takes that of the array.
    metadata : bytes, optional
        Serialized RunMetadata; None leaves the field out.
    apart : bool
        Return a `MessageParts` in place of bytes when an array is large: it shares the array's memory.
    """
    return TensorFields(1, None, datatypes).assemble(b"", arrays, _metadata_field(metadata), apart)


def scan_run_callable_response(bytes response not None, max_bytes=None):
    """Read a serialized RunCallableResponse.

    Returns
    -------
    tuple of (list of numpy.ndarray, bytes or None)
        Fetches by position and the serialized RunMetadata, None when absent.

    Raises
    ------
    InvalidArgument
        The message is damaged or a tensor cannot be decoded: the text names its position.
    ResourceExhausted
        The tensors would take more than ``max_bytes``.
    """
    cdef Budget budget = make_budget(max_bytes)
    cdef Cursor c = open_message(response)
    cdef Span span
    cdef uint32_t tag
    cdef int datatype = 0
    cdef int status
    cdef list arrays = []
    cdef list metadata = []
    while c.p < c.end:
        tag = 0
        status = read_tag(&c, &tag)
        if not status:
            if tag == F1 or tag == F2:
                status = read_span(&c, &span)
                if not status:
                    if tag == F1:
                        arrays.append(decode_field(response, span, &budget, "RunCallableResponse.fetch", len(arrays),
                                                   None, &datatype))
                    else:
                        metadata.append(span.p[:span.n])
            else:
                status = skip_field(&c, tag)
        if status:
            raise_wire("RunCallableResponse", tag, status, &c)
    return arrays, _joined(metadata)
