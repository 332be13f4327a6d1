"""What must hold for any bytes that the codec is given."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from runtime._ext import step_codec, tensor_codec, worker_codec
from runtime._ext.errors import InvalidArgument, ResourceExhausted
from tests.ext.tensor_messages import samples
from tests.ext.tensor_reference import same

# Small, so that no message can make the run slow.
MAX_BYTES = 1 << 20


def corpus() -> list[bytes]:
    """Return messages of each kind to start from."""
    x = np.arange(3, dtype=np.float32)
    s = np.array([b"ab", b""], object)
    metadata = b"\x0a\x02\x08\x01"
    return [
        *samples().values(),
        step_codec.encode_run_step_request("s", ["x:0", "y"], [x, s], ["f:0"], ["t"], b"\x08\x03", "1", True, -7),
        step_codec.encode_run_step_response(["f:0", "g"], [x, s], None, metadata),
        step_codec.encode_run_step_error(3, "no", b""),
        step_codec.encode_run_callable_request("s", 3, [x, s], 5),
        step_codec.encode_run_callable_response([x, s], None, metadata),
        worker_codec.encode_run_graph_request("s", "g", 9, ["k"], [x], ["r"], b"", True, True, True, 4),
        worker_codec.encode_run_graph_response(["k"], [x], None, metadata, [metadata], (3, "no"), b""),
        worker_codec.encode_recv_tensor_response(x, None, False, 99, True),
    ]


def check_tensor(data: bytes) -> None:
    """Decode, encode, decode: the second decode gives what the first gave."""
    datatype, array = tensor_codec.decode_tensor_ex(data, max_bytes=MAX_BYTES)
    again_type, again = tensor_codec.decode_tensor_ex(tensor_codec.encode_tensor(array, datatype))
    assert again_type == datatype and same(again, array)


def _touch(arrays: list[Any]) -> None:
    # Reads every byte, so that a sanitizer sees a view that reaches too far.
    for array in arrays:
        array.tobytes() if array.dtype != object else [len(item) for item in array.reshape(-1)]


def check_run_step(data: bytes) -> None:
    """Read a request; the same bytes give the same key, and what is read can be written and read again."""
    call = step_codec.scan_run_step(data, max_bytes=MAX_BYTES)
    _touch(call.feed_values)
    again = step_codec.scan_run_step(step_codec.encode_run_step_request(
        call.session_handle, call.feed_names, call.feed_values, call.fetches, call.targets, call.options,
        call.partial_run_handle, call.store_errors_in_response_body, call.request_id, call.feed_datatypes))
    assert again.key == call.key and again.request_id == call.request_id
    assert again.session_handle == call.session_handle and again.feed_datatypes == call.feed_datatypes
    assert all(map(same, again.feed_values, call.feed_values))


def check_run_graph(data: bytes) -> None:
    """Read a request, write and read it again."""
    call = worker_codec.scan_run_graph(data, max_bytes=MAX_BYTES)
    _touch(call.send_values)
    again = worker_codec.scan_run_graph(worker_codec.encode_run_graph_request(
        call.session_handle, call.graph_handle, call.step_id, call.send_names, call.send_values, call.recv_keys,
        call.exec_opts, call.is_partial, call.is_last_partial_run, call.store_errors_in_response_body, call.request_id,
        call.create_worker_session_called, call.send_datatypes))
    assert again.send_names == call.send_names and again.recv_keys == call.recv_keys
    assert all(map(same, again.send_values, call.send_values))


TARGETS: dict[str, Callable[[bytes], None]] = {
    "tensor": check_tensor,
    "run_step": check_run_step,
    "run_step_response": lambda data: _touch(step_codec.scan_run_step_response(data, max_bytes=MAX_BYTES)[1]),
    "run_callable": lambda data: _touch(step_codec.scan_run_callable(data, max_bytes=MAX_BYTES)[2]),
    "run_callable_response": lambda data: _touch(step_codec.scan_run_callable_response(data, max_bytes=MAX_BYTES)[0]),
    "run_graph": check_run_graph,
    "run_graph_response": lambda data: _touch(worker_codec.scan_run_graph_response(data, max_bytes=MAX_BYTES).arrays),
    "recv_tensor": lambda data: _touch([worker_codec.scan_recv_tensor_response(data, max_bytes=MAX_BYTES)[1]]),
}


def run_one(data: bytes) -> int:
    """Give ``data`` to every reader; return how many could read it.

    Raises
    ------
    AssertionError
        Something else happened than a right result or one of the two errors. The message holds the bytes.
    """
    readable = 0
    for name, check in TARGETS.items():
        try:
            check(data)
            readable += 1
        except (InvalidArgument, ResourceExhausted):
            continue
        except Exception as error:
            raise AssertionError(f"{name}: bytes.fromhex({data.hex()!r})") from error
    return readable
