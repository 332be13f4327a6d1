from collections.abc import Sequence
from typing import Any, Literal, final, overload

import numpy as np

from runtime._ext.message_parts import MessageParts

_Array = np.ndarray[Any, Any]

@final
class RunGraphCall:
    @property
    def session_handle(self) -> str: ...
    @property
    def create_worker_session_called(self) -> bool: ...
    @property
    def graph_handle(self) -> str: ...
    @property
    def step_id(self) -> int: ...
    @property
    def exec_opts(self) -> bytes | None: ...
    @property
    def send_names(self) -> list[str]: ...
    @property
    def send_values(self) -> list[_Array]: ...
    @property
    def send_datatypes(self) -> list[int]: ...
    @property
    def recv_keys(self) -> list[str]: ...
    @property
    def is_partial(self) -> bool: ...
    @property
    def is_last_partial_run(self) -> bool: ...
    @property
    def store_errors_in_response_body(self) -> bool: ...
    @property
    def request_id(self) -> int: ...

@final
class RunGraphAnswer:
    @property
    def names(self) -> list[str]: ...
    @property
    def arrays(self) -> list[_Array]: ...
    @property
    def datatypes(self) -> list[int]: ...
    @property
    def step_stats(self) -> bytes | None: ...
    @property
    def cost_graph(self) -> bytes | None: ...
    @property
    def partition_graphs(self) -> list[bytes]: ...
    @property
    def status_code(self) -> int: ...
    @property
    def status_message(self) -> str: ...

def scan_run_graph(request: bytes, max_bytes: int | None = None) -> RunGraphCall: ...
def encode_run_graph_request(
    session_handle: str,
    graph_handle: str,
    step_id: int,
    send_names: Sequence[str] = (),
    send_values: Sequence[_Array] = (),
    recv_keys: Sequence[str] = (),
    exec_opts: bytes | None = b"",
    is_partial: bool = False,
    is_last_partial_run: bool = False,
    store_errors: bool = True,
    request_id: int = 0,
    create_worker_session_called: bool = True,
    send_datatypes: Sequence[int] | None = None,
) -> bytes: ...
def encode_run_graph_response(
    names: Sequence[str] = (),
    arrays: Sequence[_Array] = (),
    datatypes: Sequence[int] | None = None,
    step_stats: bytes | None = None,
    partition_graphs: Sequence[bytes] = (),
    status: tuple[int, str] | None = None,
    cost_graph: bytes | None = None,
) -> bytes: ...
def scan_run_graph_response(response: bytes, max_bytes: int | None = None) -> RunGraphAnswer: ...
@overload
def encode_recv_tensor_response(
    array: _Array | None,
    datatype: int | None = None,
    is_dead: bool = False,
    send_start_micros: int = 0,
    require_ack: bool = False,
    apart: Literal[False] = False,
) -> bytes: ...
@overload
def encode_recv_tensor_response(
    array: _Array | None,
    datatype: int | None = None,
    is_dead: bool = False,
    send_start_micros: int = 0,
    require_ack: bool = False,
    apart: bool = False,
) -> bytes | MessageParts: ...
def scan_recv_tensor_response(
    response: bytes, max_bytes: int | None = None
) -> tuple[int, _Array, bool, int, bytes | None, bool]: ...
