"""Turns the status codes of ``wirescan`` into InvalidArgument errors that name message, field and offset."""

from runtime._ext.wirescan cimport (MAX_FIELD_BYTES, MAX_GROUP_DEPTH, WIRE_BAD_GROUP, WIRE_BAD_TAG, WIRE_BAD_VARINT,
                                    WIRE_TOO_DEEP)

from runtime._ext.errors import InvalidArgument

_FIELDS = {
    "TensorProto": {
        1: "dtype", 2: "tensor_shape", 3: "version_number", 4: "tensor_content", 5: "float_val", 6: "double_val",
        7: "int_val", 8: "string_val", 9: "scomplex_val", 10: "int64_val", 11: "bool_val", 12: "dcomplex_val",
        13: "half_val", 14: "resource_handle_val", 15: "variant_val", 16: "uint32_val", 17: "uint64_val",
        18: "float8_val"},
    "TensorShapeProto": {2: "dim", 3: "unknown_rank"},
    "NamedTensorProto": {1: "name", 2: "tensor"},
    "RunStepRequest": {
        1: "session_handle", 2: "feed", 3: "fetch", 4: "target", 5: "options", 6: "partial_run_handle",
        7: "store_errors_in_response_body", 8: "request_id"},
    "RunStepResponse": {1: "tensor", 2: "metadata", 3: "status_code", 4: "status_error_message"},
    "RunCallableRequest": {1: "session_handle", 2: "handle", 3: "feed", 4: "request_id"},
    "RunCallableResponse": {1: "fetch", 2: "metadata"},
    "RecvTensorResponse": {1: "tensor", 2: "is_dead", 3: "send_start_micros", 4: "transport_options",
                           5: "require_ack"},
    "RunGraphRequest": {
        1: "graph_handle", 2: "step_id", 3: "send", 4: "recv_key", 5: "exec_opts", 6: "is_partial",
        7: "is_last_partial_run", 8: "session_handle", 9: "store_errors_in_response_body",
        10: "create_worker_session_called", 11: "request_id"},
    "RunGraphResponse": {1: "recv", 2: "step_stats", 3: "cost_graph", 4: "partition_graph", 5: "status_code",
                         6: "status_error_message"},
}


cdef str field_label(str message, int number):
    name = _FIELDS.get(message, {}).get(number)
    return f"{message}.{name} (field {number})" if name else f"{message} field {number}"


cdef int raise_wire(str message, uint32_t tag, int status, Cursor* at) except -1:
    """Raise for ``status``, met in ``message`` while reading the field with ``tag`` (0: the tag itself is bad)."""
    cdef Py_ssize_t offset = at.p - at.base
    cdef Py_ssize_t end = at.end - at.base
    label = field_label(message, tag >> 3) if tag else message
    if status == WIRE_BAD_VARINT:
        reason = f"holds a varint of more than 10 bytes or a length above {MAX_FIELD_BYTES}"
    elif status == WIRE_BAD_TAG:
        label, reason = message, "has a tag with field number 0 or an unknown wire type"
    elif status == WIRE_BAD_GROUP:
        reason = "ends a group that was not begun"
    elif status == WIRE_TOO_DEEP:
        reason = f"nests groups deeper than {MAX_GROUP_DEPTH}"
    else:
        reason = f"needs more bytes than its message has, which ends at byte {end}"
    raise InvalidArgument(f"{label} {reason} (at byte {offset}): the message is damaged or cut off")
