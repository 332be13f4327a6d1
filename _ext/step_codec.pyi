from collections.abc import Sequence
from typing import Any, Literal, final, overload

import numpy as np

from runtime._ext.message_parts import MessageParts

_Array = np.ndarray[Any, Any]

@final
class RunStepCall:
    @property
    def session_handle(self) -> str: ...
    @property
    def key(self) -> bytes: ...
    @property
    def feed_names(self) -> tuple[str, ...]: ...
    @property
    def feed_values(self) -> list[_Array]: ...
    @property
    def feed_datatypes(self) -> list[int]: ...
    @property
    def feeds(self) -> list[tuple[str, _Array]]: ...
    @property
    def fetches(self) -> tuple[str, ...]: ...
    @property
    def targets(self) -> tuple[str, ...]: ...
    @property
    def options(self) -> bytes | None: ...
    @property
    def partial_run_handle(self) -> str: ...
    @property
    def store_errors_in_response_body(self) -> bool: ...
    @property
    def request_id(self) -> int: ...

@final
class ResponsePlan:
    def __init__(self, names: Sequence[str], datatypes: Sequence[int] | None = None) -> None: ...
    @property
    def names(self) -> tuple[str, ...]: ...
    @property
    def datatypes(self) -> tuple[int, ...]: ...
    @overload
    def encode(
        self, arrays: Sequence[_Array], metadata: bytes | None = None, apart: Literal[False] = False
    ) -> bytes: ...
    @overload
    def encode(
        self, arrays: Sequence[_Array], metadata: bytes | None = None, apart: bool = False
    ) -> bytes | MessageParts: ...

@final
class RequestPlan:
    def __init__(
        self,
        session_handle: str,
        feed_names: Sequence[str] = (),
        fetches: Sequence[str] = (),
        targets: Sequence[str] = (),
        options: bytes | None = None,
        partial_run_handle: str = "",
        store_errors: bool = True,
        feed_datatypes: Sequence[int] | None = None,
        more: bytes = b"",
    ) -> None: ...
    def encode(self, feed_values: Sequence[_Array] = (), request_id: int = 0) -> bytes: ...

def scan_run_step(request: bytes, max_bytes: int | None = None) -> RunStepCall: ...
def scan_last(message: bytes, number: int) -> bytes | None: ...
def encode_run_step_response(
    names: Sequence[str],
    arrays: Sequence[_Array],
    datatypes: Sequence[int] | None = None,
    metadata: bytes | None = None,
) -> bytes: ...
def encode_run_step_error(code: int, message: str, metadata: bytes | None = None) -> bytes: ...
def encode_run_step_request(
    session_handle: str,
    feed_names: Sequence[str] = (),
    feed_values: Sequence[_Array] = (),
    fetches: Sequence[str] = (),
    targets: Sequence[str] = (),
    options: bytes | None = None,
    partial_run_handle: str = "",
    store_errors: bool = True,
    request_id: int = 0,
    feed_datatypes: Sequence[int] | None = None,
) -> bytes: ...
def scan_run_step_response(
    response: bytes, max_bytes: int | None = None
) -> tuple[list[str], list[_Array], int, str, bytes | None]: ...
def scan_run_callable(request: bytes, max_bytes: int | None = None) -> tuple[str, int, list[_Array], int]: ...
def encode_run_callable_request(
    session_handle: str,
    handle: int,
    feed_values: Sequence[_Array] = (),
    request_id: int = 0,
    feed_datatypes: Sequence[int] | None = None,
    more: bytes = b"",
) -> bytes: ...
@overload
def encode_run_callable_response(
    arrays: Sequence[_Array],
    datatypes: Sequence[int] | None = None,
    metadata: bytes | None = None,
    apart: Literal[False] = False,
) -> bytes: ...
@overload
def encode_run_callable_response(
    arrays: Sequence[_Array],
    datatypes: Sequence[int] | None = None,
    metadata: bytes | None = None,
    apart: bool = False,
) -> bytes | MessageParts: ...
def scan_run_callable_response(
    response: bytes, max_bytes: int | None = None
) -> tuple[list[_Array], bytes | None]: ...
