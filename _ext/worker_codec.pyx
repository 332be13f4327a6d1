"""Reads and writes the worker's messages that carry tensors: RunGraph and RecvTensor, from both ends.

StepStats, CostGraphDef, GraphDef and ExecutorOpts pass through as raw bytes.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t

from runtime._ext.name_cache cimport cached_name
from runtime._ext.tensor_decode cimport Budget, make_budget
from runtime._ext.tensor_fields cimport (SpanList, TensorFields, add_span, bytes_field, decode_field, free_spans,
                                         int_field, join_spans, open_message, scan_named_tensor, start_spans,
                                         text_field)
from runtime._ext.wirefault cimport raise_wire
from runtime._ext.wirescan cimport Cursor, Span, read_span, read_tag, read_varint, skip_field

import numpy as np

from runtime._ext.errors import Error

cdef enum:
    B1 = 1 << 3 | 2
    B2 = 2 << 3 | 2
    B3 = 3 << 3 | 2
    B4 = 4 << 3 | 2
    B5 = 5 << 3 | 2
    B6 = 6 << 3 | 2
    B8 = 8 << 3 | 2
    V2 = 2 << 3 | 0
    V3 = 3 << 3 | 0
    V5 = 5 << 3 | 0
    V6 = 6 << 3 | 0
    V7 = 7 << 3 | 0
    V9 = 9 << 3 | 0
    V10 = 10 << 3 | 0
    V11 = 11 << 3 | 0
    DT_FLOAT = 1

# What stands in for a dead value on the wire, whatever the type of the edge.
_DEAD = np.empty(0, dtype=np.float32)
_DEAD.flags.writeable = False


cdef bytes _joined(list parts):
    """Merge the occurrences of a message field, which is to join their bytes; None when there is none."""
    return b"".join(parts) if parts else None


cdef bytes _message_field(int number, bytes message):
    """Write a message field, present even when empty; nothing for None."""
    return b"" if message is None else bytes_field(number, message)


@cython.final
cdef class RunGraphCall:
    """One RunGraphRequest, read.

    Attributes
    ----------
    session_handle, graph_handle : str
        Empty where the request has none.
    create_worker_session_called : bool
    step_id : int
        Signed 64 bits.
    exec_opts : bytes or None
        The serialized ExecutorOpts; None when the field is absent.
    send_names : list of str
        Rendezvous keys of the fed tensors.
    send_values : list of numpy.ndarray
        In the order of ``send_names``; views into the request where the encoding allows.
    send_datatypes : list of int
        DataType numbers, likewise.
    recv_keys : list of str
        Rendezvous keys of the tensors to answer with.
    is_partial, is_last_partial_run, store_errors_in_response_body : bool
    request_id : int
        Signed 64 bits, 0 when absent.
    """
    cdef readonly str session_handle
    cdef readonly bint create_worker_session_called
    cdef readonly str graph_handle
    cdef readonly int64_t step_id
    cdef readonly bytes exec_opts
    cdef readonly list send_names
    cdef readonly list send_values
    cdef readonly list send_datatypes
    cdef readonly list recv_keys
    cdef readonly bint is_partial
    cdef readonly bint is_last_partial_run
    cdef readonly bint store_errors_in_response_body
    cdef readonly int64_t request_id


@cython.final
cdef class RunGraphAnswer:
    """One RunGraphResponse, read.

    Attributes
    ----------
    names : list of str
        Rendezvous keys.
    arrays : list of numpy.ndarray
        Views into the response where the encoding allows.
    datatypes : list of int
        DataType numbers.
    step_stats, cost_graph : bytes or None
        Serialized messages; None when absent.
    partition_graphs : list of bytes
        Serialized GraphDefs.
    status_code : int
        0 is success.
    status_message : str
    """
    cdef readonly list names
    cdef readonly list arrays
    cdef readonly list datatypes
    cdef readonly bytes step_stats
    cdef readonly bytes cost_graph
    cdef readonly list partition_graphs
    cdef readonly int32_t status_code
    cdef readonly str status_message


cdef int _decode_named(bytes message, SpanList* spans, Budget* budget, str field, list names, list arrays,
                       list datatypes) except -1:
    """Decode NamedTensorProtos into the three lists; names of all that are read come first."""
    cdef Span name, tensor
    cdef bytes owner
    cdef int64_t i
    cdef int datatype = 0
    for i in range(spans.n):
        owner = scan_named_tensor(message, spans.items[i], &name, &tensor)
        text = cached_name(name, <const uint8_t*>PyBytes_AS_STRING(message), "NamedTensorProto", 1)
        array = decode_field(owner, tensor, budget, field, i, text, &datatype)
        names.append(text)
        arrays.append(array)
        datatypes.append(datatype)
    return 0


def scan_run_graph(bytes request not None, max_bytes=None):
    """Read a serialized RunGraphRequest.

    Parameters
    ----------
    request : bytes
    max_bytes : int, optional
        Limit on what all tensors together may allocate beyond views, in bytes.

    Returns
    -------
    RunGraphCall

    Raises
    ------
    InvalidArgument
        The message is damaged, or a sent tensor cannot be decoded: the text then names it. Where the outer fields could
        be read, the error has an attribute ``call``, a RunGraphCall without the tensors from that one on, so that the
        answer can go where ``store_errors_in_response_body`` says.
    ResourceExhausted
        The tensors would take more than ``max_bytes``. Has ``call`` too.
    """
    cdef Budget budget = make_budget(max_bytes)
    cdef Cursor c = open_message(request)
    cdef SpanList sends
    cdef Span span, session, graph
    cdef uint32_t tag
    cdef uint64_t value = 0
    cdef int status
    cdef list exec_opts = []
    cdef RunGraphCall call = RunGraphCall.__new__(RunGraphCall)
    call.send_names = []
    call.send_values = []
    call.send_datatypes = []
    call.recv_keys = []
    session.n = graph.n = 0
    session.p = graph.p = NULL
    start_spans(&sends)
    try:
        while c.p < c.end:
            tag = 0
            status = read_tag(&c, &tag)
            if not status:
                if tag == B3 or tag == B4 or tag == B5:
                    status = read_span(&c, &span)
                    if not status:
                        if tag == B3:
                            add_span(&sends, span)
                        elif tag == B4:
                            call.recv_keys.append(cached_name(span, c.base, "RunGraphRequest", 4))
                        else:
                            exec_opts.append(span.p[:span.n])
                elif tag == B1:
                    status = read_span(&c, &graph)
                elif tag == B8:
                    status = read_span(&c, &session)
                elif tag == V2 or tag == V6 or tag == V7 or tag == V9 or tag == V10 or tag == V11:
                    status = read_varint(&c, &value)
                    if tag == V2:
                        call.step_id = <int64_t>value
                    elif tag == V6:
                        call.is_partial = value != 0
                    elif tag == V7:
                        call.is_last_partial_run = value != 0
                    elif tag == V9:
                        call.store_errors_in_response_body = value != 0
                    elif tag == V10:
                        call.create_worker_session_called = value != 0
                    else:
                        call.request_id = <int64_t>value
                else:
                    status = skip_field(&c, tag)
            if status:
                raise_wire("RunGraphRequest", tag, status, &c)
        call.session_handle = cached_name(session, c.base, "RunGraphRequest", 8)
        call.graph_handle = cached_name(graph, c.base, "RunGraphRequest", 1)
        call.exec_opts = _joined(exec_opts)
        try:
            _decode_named(request, &sends, &budget, "RunGraphRequest.send", call.send_names, call.send_values,
                          call.send_datatypes)
        except Error as error:
            error.call = call
            raise
        return call
    finally:
        free_spans(&sends)


def encode_run_graph_request(session_handle, graph_handle, step_id, send_names=(), send_values=(), recv_keys=(),
                             bytes exec_opts=b"", bint is_partial=False, bint is_last_partial_run=False,
                             bint store_errors=True, request_id=0, bint create_worker_session_called=True,
                             send_datatypes=None):
    """Return a serialized RunGraphRequest.

    Parameters
    ----------
    session_handle, graph_handle : str
    step_id, request_id : int
        Signed 64 bits.
    send_names : sequence of str
        Rendezvous keys of the tensors to feed.
    send_values : sequence of numpy.ndarray
        One for each name, in that order.
    recv_keys : sequence of str
        Rendezvous keys of the tensors wanted back.
    exec_opts : bytes or None
        Serialized ExecutorOpts; ``b""`` writes an empty one, None leaves the field out.
    is_partial, is_last_partial_run, store_errors, create_worker_session_called : bool
    send_datatypes : sequence of int, optional
        DataType of each tensor; 0 or no sequence takes that of the array.

    Raises
    ------
    InvalidArgument
        The number of arrays is wrong, or one cannot be sent as its type: the text names it.
    ResourceExhausted
        The message would exceed protobuf's 2 GiB.
    """
    cdef bytes head = text_field(1, graph_handle) + int_field(2, step_id)
    parts = [text_field(4, key) or b"\x22\x00" for key in recv_keys]
    parts += [_message_field(5, exec_opts), int_field(6, is_partial), int_field(7, is_last_partial_run),
              text_field(8, session_handle), int_field(9, store_errors), int_field(10, create_worker_session_called),
              int_field(11, request_id)]
    return TensorFields(3, send_names, send_datatypes).assemble(head, send_values, b"".join(parts))


def encode_run_graph_response(names=(), arrays=(), datatypes=None, bytes step_stats=None, partition_graphs=(),
                              status=None, bytes cost_graph=None):
    """Return a serialized RunGraphResponse.

    Parameters
    ----------
    names : sequence of str
        Rendezvous keys, exactly as in the request.
    arrays : sequence of numpy.ndarray
        One for each name, in that order.
    datatypes : sequence of int, optional
        DataType of each tensor; 0 or no sequence takes that of the array.
    step_stats, cost_graph : bytes, optional
        Serialized messages; None leaves the field out.
    partition_graphs : sequence of bytes
        Serialized GraphDefs.
    status : tuple of (int, str), optional
        Code and message of a step that failed.

    Raises
    ------
    InvalidArgument
        The number of arrays is wrong, or one cannot be sent as its type: the text names it.
    ResourceExhausted
        The message would exceed protobuf's 2 GiB.
    """
    parts = [_message_field(2, step_stats), _message_field(3, cost_graph)]
    parts += [bytes_field(4, graph) for graph in partition_graphs]
    if status is not None:
        code, message = status
        parts += [int_field(5, code), text_field(6, message)]
    return TensorFields(1, names, datatypes).assemble(b"", arrays, b"".join(parts))


def scan_run_graph_response(bytes response not None, max_bytes=None):
    """Read a serialized RunGraphResponse.

    Returns
    -------
    RunGraphAnswer

    Raises
    ------
    InvalidArgument
        The message is damaged or a tensor cannot be decoded: the text names it.
    ResourceExhausted
        The tensors would take more than ``max_bytes``.
    """
    cdef Budget budget = make_budget(max_bytes)
    cdef Cursor c = open_message(response)
    cdef SpanList tensors
    cdef Span span, message
    cdef uint32_t tag
    cdef uint64_t value = 0
    cdef int status
    cdef list step_stats = []
    cdef list cost_graph = []
    cdef RunGraphAnswer answer = RunGraphAnswer.__new__(RunGraphAnswer)
    answer.names = []
    answer.arrays = []
    answer.datatypes = []
    answer.partition_graphs = []
    message.p = NULL
    message.n = 0
    start_spans(&tensors)
    try:
        while c.p < c.end:
            tag = 0
            status = read_tag(&c, &tag)
            if not status:
                if tag == B1 or tag == B2 or tag == B3 or tag == B4:
                    status = read_span(&c, &span)
                    if not status:
                        if tag == B1:
                            add_span(&tensors, span)
                        elif tag == B2:
                            step_stats.append(span.p[:span.n])
                        elif tag == B3:
                            cost_graph.append(span.p[:span.n])
                        else:
                            answer.partition_graphs.append(span.p[:span.n])
                elif tag == V5:
                    status = read_varint(&c, &value)
                    answer.status_code = <int32_t>value
                elif tag == B6:
                    status = read_span(&c, &message)
                else:
                    status = skip_field(&c, tag)
            if status:
                raise_wire("RunGraphResponse", tag, status, &c)
        answer.status_message = cached_name(message, c.base, "RunGraphResponse", 6)
        answer.step_stats = _joined(step_stats)
        answer.cost_graph = _joined(cost_graph)
        _decode_named(response, &tensors, &budget, "RunGraphResponse.recv", answer.names, answer.arrays,
                      answer.datatypes)
        return answer
    finally:
        free_spans(&tensors)


def encode_recv_tensor_response(array, datatype=None, bint is_dead=False, send_start_micros=0, bint require_ack=False,
                                bint apart=False):
    """Return a serialized RecvTensorResponse.

    Parameters
    ----------
    array : numpy.ndarray or None
        Ignored when ``is_dead``: a dead value travels as an empty float tensor, whatever the type of its edge.
    datatype : int, optional
        The DataType number to send it as; left out, it is the one that the dtype has.
    is_dead : bool
    send_start_micros : int
        When the value was ready, in microseconds since the epoch.
    require_ack : bool
    apart : bool
        Return a `MessageParts` in place of bytes when the array is large: it shares the array's memory.

    Returns
    -------
    bytes or MessageParts
        The tensor first, in the field order that TensorFlow reads without a general parse; a scalar has no
        tensor_shape.

    Raises
    ------
    InvalidArgument
        The array cannot be sent as that type.
    ResourceExhausted
        The message would exceed protobuf's 2 GiB.
    """
    cdef bytes tail = int_field(2, is_dead) + int_field(3, send_start_micros) + int_field(5, require_ack)
    if is_dead:
        array, datatype = _DEAD, DT_FLOAT
    return TensorFields(1, None, (datatype,), True).assemble(b"", (array,), tail, apart)


def scan_recv_tensor_response(bytes response not None, max_bytes=None):
    """Read a serialized RecvTensorResponse.

    Returns
    -------
    tuple of (int, numpy.ndarray, bool, int, bytes or None, bool)
        DataType number, array (a view where the encoding allows), is_dead, send_start_micros, the serialized Any of
        transport_options (None when absent), require_ack.

    Raises
    ------
    InvalidArgument
        The message is damaged, has no tensor, or the tensor cannot be decoded.
    ResourceExhausted
        The tensor would take more than ``max_bytes``.
    """
    cdef Budget budget = make_budget(max_bytes)
    cdef Cursor c = open_message(response)
    cdef SpanList tensors
    cdef Span span, tensor
    cdef uint32_t tag
    cdef uint64_t value = 0
    cdef bint is_dead = False
    cdef bint require_ack = False
    cdef int64_t send_start_micros = 0
    cdef int datatype = 0
    cdef int status
    cdef list options = []
    cdef bytes owner = response
    tensor.p = c.base
    tensor.n = 0
    start_spans(&tensors)
    try:
        while c.p < c.end:
            tag = 0
            status = read_tag(&c, &tag)
            if not status:
                if tag == B1:
                    status = read_span(&c, &tensor)
                    if not status:
                        add_span(&tensors, tensor)
                elif tag == B4:
                    status = read_span(&c, &span)
                    if not status:
                        options.append(span.p[:span.n])
                elif tag == V2 or tag == V3 or tag == V5:
                    status = read_varint(&c, &value)
                    if tag == V2:
                        is_dead = value != 0
                    elif tag == V3:
                        send_start_micros = <int64_t>value
                    else:
                        require_ack = value != 0
                else:
                    status = skip_field(&c, tag)
            if status:
                raise_wire("RecvTensorResponse", tag, status, &c)
        if tensors.n > 1:
            owner = join_spans(&tensors)
            tensor.p = <const uint8_t*>PyBytes_AS_STRING(owner)
            tensor.n = PyBytes_GET_SIZE(owner)
    finally:
        free_spans(&tensors)
    array = decode_field(owner, tensor, &budget, "RecvTensorResponse.tensor", 0, None, &datatype)
    return datatype, array, is_dead, send_start_micros, _joined(options), require_ack
