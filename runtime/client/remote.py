"""Sessions on a server: calls of MasterService, ours or TensorFlow's, over gRPC.

Steps go as bytes that the compiled codec writes and reads, without protobuf objects between.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import grpc
from google.protobuf.message import EncodeError, Message

from runtime import wire
from runtime._ext.errors import Aborted, DeadlineExceeded, Error, FailedPrecondition, InvalidArgument, Unavailable
from runtime._ext.step_codec import (
    RequestPlan,
    encode_run_callable_request,
    scan_run_callable_response,
    scan_run_step_response,
)
from runtime.client.access import Access
from runtime.client.tensor_roads import MEET, TensorRoads
from runtime.client.transport import Array, DeviceInfo, Signature
from runtime.client.watched import HEALTH_CHECK, WatchedChannel
from runtime.errors import ResourceExhausted, from_code, from_rpc_error

if TYPE_CHECKING:
    from runtime.transport.elsewhere import Elsewhere

__all__ = ["RemoteTransport", "reset"]

logger = logging.getLogger(__name__)

_SERVICE = "/tensorflow.MasterService/"
_RETRY_S = 0.05
# A message must stay below 2 GiB: protobuf's own limit, which no setting lifts.
_MAX_MESSAGE_BYTES = (1 << 31) - 1
# Closing a session cancels its steps; a server that does not answer meanwhile is given up.
_CLOSE_TIMEOUT_S = 30.0
_SILENT_CLOSE_TIMEOUT_S = 1.0
_RELEASE_TIMEOUT_S = 5.0
_MAX_PLANS = 256
_MAX_NAMES = 3
# How much longer than its limit a call may take that the server ends: a share, and at most so many seconds.
_ANSWER_SHARE = 0.1
_ANSWER_S = 0.25


class _Connection:
    """A shared channel with the calls a master answers."""

    def __init__(self, target: str, access: Access, silence_s: float) -> None:
        self.target = target
        self.shared = WatchedChannel.acquire(target, access, silence_s)
        self._metadata = access.metadata()
        self._closed = False

    def call(self, method: str, request: bytes, timeout_s: float | None, wait_for_ready: bool = False, *,
             ends_itself: bool = False, of: Sequence[str] = ()) -> bytes:
        """Call a method and return the response.

        A server of this project ends by itself what runs into its limit, where `ends_itself` says so, and tells why; it
        gets a little longer for that. `of` is what is awaited, for the error of a server that is silent.

        Raises
        ------
        Error
            The server's error; UNAVAILABLE and DEADLINE_EXCEEDED name the target.
        """
        if self._closed:
            raise FailedPrecondition("the session is closed")
        if len(request) > _MAX_MESSAGE_BYTES:
            raise InvalidArgument(f"the {method} request has {len(request)} bytes; one message holds at most "
                                  f"{_MAX_MESSAGE_BYTES}: feed less at once")
        path = method if method[0] == "/" else _SERVICE + method
        deadline_s = timeout_s
        if ends_itself and timeout_s is not None:
            deadline_s = timeout_s + min(_ANSWER_S, _ANSWER_SHARE * timeout_s)
        with self.shared.awaiting(lambda: _described(method, of)) as wait:
            # The blocking form takes 0.2 ms where the future's takes 0.5. It gives way to KeyboardInterrupt, and
            # letting go of the unfinished call then cancels it on the server.
            try:
                response: bytes = self.shared.stub(path)(request, timeout=deadline_s, metadata=self._metadata,
                                                         wait_for_ready=wait_for_ready)
                return response
            except grpc.RpcError as error:
                raise wait.lost or self._told(error, method, timeout_s) from None
            except ValueError as error:  # the channel was closed at the same time
                raise wait.lost or FailedPrecondition(f"{method} on {self.target}: the session is closed ({error})"
                                                      ) from None

    def _told(self, error: Any, method: str, timeout_s: float | None) -> Error:
        told = from_rpc_error(error)
        if isinstance(told, Unavailable):
            return Unavailable(f"{self.target} cannot be reached ({method}): {told.message}")
        if isinstance(told, DeadlineExceeded) and timeout_s is not None:
            return DeadlineExceeded(f"{method} on {self.target} did not end within {timeout_s:g} s ({told.message})")
        if isinstance(told, ResourceExhausted):
            return ResourceExhausted(f"{method} on {self.target}: {told.message}")
        return told

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self.shared.release()


class RemoteTransport:
    """A session on the master at a target.

    Parameters
    ----------
    target : str
        ``grpc://HOST:PORT``, ``grpcs://HOST:PORT`` or ``unix:PATH``.
    config : wire.ConfigProto
        Sent with the session; ``operation_timeout_in_ms`` bounds every call.
    access : Access
    connect_timeout_s : float
        Seconds to wait for a server that is not there yet, when the session is made.
    peer_timeout_s : float
        Seconds after which a server that answers nothing at all counts as lost; 0 to wait for ever.
    """

    def __init__(self, target: str, config: Any, access: Access, connect_timeout_s: float, peer_timeout_s: float
                 ) -> None:
        self._connection = _Connection(target, access, peer_timeout_s)
        self._target = target
        self._config = config
        self._connect_timeout_s = connect_timeout_s
        self._timeout_s = config.operation_timeout_in_ms / 1000.0 if config.operation_timeout_in_ms > 0 else None
        self._handle = ""
        self._version = 0
        self._access = access
        self._roads: TensorRoads | None = None
        self._plans: dict[tuple[Signature, bytes], tuple[RequestPlan, float | None]] = {}
        self._lock = threading.Lock()

    @property
    def is_open(self) -> bool:
        return bool(self._handle)

    def create(self, graph_def: Any) -> None:
        request = wire.CreateSessionRequest(graph_def=graph_def, config=self._config, target=self._target)
        timeout_s = self._connect_timeout_s if self._timeout_s is None else min(self._connect_timeout_s,
                                                                                self._timeout_s)
        _wait_ready(self._connection, timeout_s)
        answer = self._connection.call("CreateSession", _serialized(request), self._timeout_s)
        response = wire.CreateSessionResponse.FromString(answer)
        self._roads = self._meet()
        self._handle, self._version = response.session_handle, response.graph_version

    def _meet(self) -> TensorRoads | None:
        """Return the roads of large tensors beside the messages; None where the server has none."""
        try:
            answer = self._connection.call(MEET, b"", self._timeout_s or _RELEASE_TIMEOUT_S)
        except Error as error:
            logger.debug("tensors go in messages alone to %s: %s", self._target, error)
            return None
        return TensorRoads(self._target, self._access, answer, self._connection.shared)

    def extend(self, graph_def: Any) -> None:
        request = wire.ExtendSessionRequest(session_handle=self._handle, graph_def=graph_def,
                                            current_graph_version=self._version)
        answer = self._connection.call("ExtendSession", _serialized(request), self._timeout_s)
        self._version = wire.ExtendSessionResponse.FromString(answer).new_graph_version

    def run(self, signature: Signature, values: Sequence[Array]) -> tuple[list[Array], bytes]:
        plan, timeout_s = self._plan(signature)
        return self._step(plan, signature, values, timeout_s)

    def _plan(self, signature: Signature) -> tuple[RequestPlan, float | None]:
        offer = b"" if self._roads is None else self._roads.offer
        found = self._plans.get((signature, offer))
        if found is None:
            timeout_s = self._timeout_s
            if signature.options:
                limit_ms = wire.RunOptions.FromString(signature.options).timeout_in_ms
                timeout_s = limit_ms / 1000.0 if limit_ms > 0 else timeout_s
            plan = RequestPlan(self._handle, signature.feeds, signature.fetches, signature.targets,
                               signature.options or None, "", True, signature.feed_types, offer)
            with self._lock:
                if len(self._plans) >= _MAX_PLANS:
                    self._plans.clear()
                found = self._plans[signature, offer] = plan, timeout_s
        return found

    def _step(self, plan: RequestPlan, signature: Signature, values: Sequence[Array], timeout_s: float | None
              ) -> tuple[list[Array], bytes]:
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        response, told = self._send("RunStep", signature.feeds, values, timeout_s, lambda kept, more: (
            plan.encode(kept, _request_id()) + more if more else plan.encode(kept, _request_id())),
            signature.fetches or signature.targets)
        names, arrays, code, message, metadata = scan_run_step_response(response)
        if code:
            raise from_code(code, message)
        if told is not None and self._roads is not None:
            arrays = self._roads.gather(told, arrays, names, deadline)
        if tuple(names) != signature.fetches:
            by_name = dict(zip(names, arrays, strict=True))
            missing = [name for name in signature.fetches if name not in by_name]
            if missing:
                raise from_code(13, f"{self._target} answered a step without the fetch '{missing[0]}'")
            arrays = [by_name[name] for name in signature.fetches]
        return _writable(arrays), metadata or b""

    def _send(self, method: str, names: Sequence[str], values: Sequence[Array], timeout_s: float | None,
              encode: Callable[[Sequence[Array], bytes], bytes], of: Sequence[str] = ()
              ) -> tuple[bytes, Elsewhere | None]:
        """Send a step: the answer, and what it says of fetches that are not in it.

        ``encode(values, more)`` returns the request, with `more` behind it; `of` is what the step computes.
        """
        def call(kept: Sequence[Array], more: bytes, left_s: float | None) -> bytes:
            _check_size(names, kept, self._roads is not None)
            return self._connection.call(method, encode(kept, more), left_s, ends_itself=True, of=of)

        if self._roads is None:
            return call(values, b"", timeout_s), None
        return self._roads.step(values, timeout_s, call)

    def partial_setup(self, signature: Signature) -> str:
        request = wire.PartialRunSetupRequest(session_handle=self._handle, feed=signature.feeds,
                                              fetch=signature.fetches, target=signature.targets,
                                              request_id=_request_id())
        answer = self._connection.call("PartialRunSetup", request.SerializeToString(), self._timeout_s)
        return wire.PartialRunSetupResponse.FromString(answer).partial_run_handle

    def partial_run(self, handle: str, signature: Signature, values: Sequence[Array]) -> list[Array]:
        plan = RequestPlan(self._handle, signature.feeds, signature.fetches, signature.targets, None, handle, True,
                           signature.feed_types)
        return self._step(plan, signature, values, self._timeout_s)[0]

    def make_callable(self, options: Any) -> int:
        request = wire.MakeCallableRequest(session_handle=self._handle, options=options, request_id=_request_id())
        answer = self._connection.call("MakeCallable", request.SerializeToString(), self._timeout_s)
        return wire.MakeCallableResponse.FromString(answer).handle

    def run_callable(self, handle: int, feed_types: Sequence[int], values: Sequence[Array], timeout_s: float
                     ) -> tuple[list[Array], bytes]:
        limit_s = timeout_s or self._timeout_s
        deadline = None if limit_s is None else time.monotonic() + limit_s
        offer = b"" if self._roads is None else self._roads.offer
        names = [f"feed {index}" for index in range(len(values))]
        answer, told = self._send("RunCallable", names, values, limit_s, lambda kept, more: encode_run_callable_request(
            self._handle, handle, kept, _request_id(), feed_types, more or offer))
        arrays, metadata = scan_run_callable_response(answer)
        if told is not None and self._roads is not None:
            arrays = self._roads.gather(told, arrays, [f"fetch {index}" for index in range(len(arrays))], deadline)
        return _writable(arrays), metadata or b""

    def release_callable(self, handle: int) -> None:
        request = wire.ReleaseCallableRequest(session_handle=self._handle, handle=handle)
        self._connection.call("ReleaseCallable", request.SerializeToString(), _RELEASE_TIMEOUT_S)

    def list_devices(self) -> list[DeviceInfo]:
        return _devices(self._connection, self._handle, self._timeout_s)

    def close(self) -> None:
        handle, self._handle = self._handle, ""
        try:
            if handle:
                request = wire.CloseSessionRequest(session_handle=handle)
                # One that was found silent a moment ago is hardly back; if it is, it answers at once.
                limit_s = _SILENT_CLOSE_TIMEOUT_S if self._connection.shared.is_silent else _CLOSE_TIMEOUT_S
                self._connection.call("CloseSession", request.SerializeToString(), self._timeout_s or limit_s)
        except (Unavailable, Aborted, DeadlineExceeded) as error:
            # The server has gone, or forgot the session: it is closed either way.
            logger.info("session %s on %s was not closed properly: %s", handle, self._target, error)
        finally:
            self._connection.close()


def reset(target: str, containers: Sequence[str], config: Any, access: Access, connect_timeout_s: float) -> None:
    """Empty containers of a server (the default one when none is named), and end all its sessions."""
    connection = _Connection(target, access, 0.0)  # every call has a limit of its own
    try:
        _wait_ready(connection, connect_timeout_s)
        request = wire.ResetRequest(container=containers, device_filters=config.device_filters)
        connection.call("Reset", request.SerializeToString(),
                        config.operation_timeout_in_ms / 1000.0 or _CLOSE_TIMEOUT_S)
    finally:
        connection.close()


def _devices(connection: _Connection, handle: str, timeout_s: float | None) -> list[DeviceInfo]:
    request = wire.ListDevicesRequest(session_handle=handle)
    answer = wire.ListDevicesResponse.FromString(connection.call("ListDevices", request.SerializeToString(), timeout_s))
    return [DeviceInfo(device.name, device.device_type, device.memory_limit, device.incarnation)
            for device in (*answer.local_device, *answer.remote_device)]


def _wait_ready(connection: _Connection, timeout_s: float) -> None:
    """Wait until a server answers at all, so that a program may be started a little before its server.

    Asked with a health check: whatever a server says to it, it is there.

    Raises
    ------
    Unavailable
        If there is no answer in time, with what kept the connection from being made.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            connection.call(HEALTH_CHECK, b"", max(deadline - time.monotonic(), 0.001), wait_for_ready=True)
            return
        except DeadlineExceeded:
            pass
        except Unavailable:
            if time.monotonic() < deadline:
                time.sleep(_RETRY_S)
                continue
        except Error:
            return
        try:
            connection.call(HEALTH_CHECK, b"", _RELEASE_TIMEOUT_S)
        except (Unavailable, DeadlineExceeded) as error:
            raise Unavailable(f"no server answered within {timeout_s:g} s: {error.message}") from None
        except Error:
            pass
        return


def _described(method: str, of: Sequence[str]) -> str:
    """Return a call as errors name it: with the first of its names."""
    names = ", ".join(of[:_MAX_NAMES]) + (f" and {len(of) - _MAX_NAMES} more" if len(of) > _MAX_NAMES else "")
    return f"{method} of {names}" if names else method.rpartition("/")[2]


def _serialized(message: Message) -> bytes:
    try:
        return message.SerializeToString()
    except (ValueError, EncodeError) as error:
        raise InvalidArgument(f"the {type(message).DESCRIPTOR.name} cannot be sent: {error}; a graph of more than "
                              "2 GiB must feed its large constants or read them from a checkpoint") from error


def _check_size(names: Sequence[str], values: Sequence[Array], has_roads: bool) -> None:
    total = sum(value.nbytes for value in values)
    if total > _MAX_MESSAGE_BYTES:
        largest = max(range(len(values)), key=lambda index: values[index].nbytes)
        way_out = ("strings travel in messages alone: feed fewer at once" if has_roads else
                   "this server takes tensors in messages alone: feed less at once, such as slices that the graph "
                   "joins, or use a server of this project, which takes numbers of any size")
        raise InvalidArgument(f"feeds of {total} bytes do not fit in one message of at most {_MAX_MESSAGE_BYTES} "
                              f"bytes; the largest is '{names[largest]}' with {values[largest].nbytes}: {way_out}")


def _writable(arrays: list[Array]) -> list[Array]:
    """Return arrays that are the caller's to change; the codec's are views of the response."""
    return [array if array.flags.writeable else array.copy() for array in arrays]


def _request_id() -> int:
    """Return a number, not 0, by which a server knows a request that comes twice."""
    return random.getrandbits(63) or 1
