"""The MasterService without a network: its handlers on a loop in a thread, called with messages or bytes."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from runtime import wire
from runtime._ext.message_parts import MessageParts
from runtime._ext.tensor_codec import decode_tensor
from runtime.dtypes import from_numpy
from runtime.master.master import Master
from runtime.master.service import MasterService
from runtime.ops import registry
from tests.graph.graphs import graph_def

TIMEOUT_S = 30.0
needs_queues = pytest.mark.skipif("FIFOQueueV2" not in registry.registered(), reason="queue kernels are not built in")


class Caller:
    """Calls handlers as the edge does, from the thread of a test.

    Attributes
    ----------
    service : MasterService
    loop : asyncio event loop
    """

    def __init__(self, service: MasterService, loop: asyncio.AbstractEventLoop) -> None:
        self.service = service
        self.loop = loop
        self.handlers = service.services()["tensorflow.MasterService"]
        self.methods = wire.SERVICES["tensorflow.MasterService"]

    def send(self, method: str, request: bytes) -> Future[bytes]:
        """Start a call; cancelling the future is what a client that goes away does."""
        return asyncio.run_coroutine_threadsafe(self._call(method, request), self.loop)

    async def _call(self, method: str, request: bytes) -> bytes:
        answer = await self.handlers[method](request, None)
        assert type(answer) in (bytes, MessageParts)
        return bytes(answer)

    def call(self, method: str, message: Any = None, **fields: Any) -> Any:
        """Make a call, with a message or the fields of one, and return the answer; raise its error."""
        kind = self.methods[method]
        message = kind.request(**fields) if message is None else message
        return kind.response.FromString(self.send(method, message.SerializeToString()).result(TIMEOUT_S))

    def session(self, *nodes: Any, functions: tuple[Any, ...] = (), target: str = "", **config: Any) -> str:
        """Create a session and return its handle."""
        request = wire.CreateSessionRequest(graph_def=graph_def(*nodes, functions=functions), target=target)
        request.config.CopyFrom(wire.ConfigProto(**config))
        return str(self.call("CreateSession", request).session_handle)

    def extend(self, handle: str, version: int, *nodes: Any, **options: Any) -> int:
        """Extend a session's graph and return the new version."""
        return int(
            self.call(
                "ExtendSession",
                session_handle=handle,
                graph_def=graph_def(*nodes, **options),
                current_graph_version=version,
            ).new_graph_version
        )

    def step(self, handle: str, fetch: Any = (), target: Any = (), feed: Any = None, **fields: Any) -> Any:
        """Run a step and return the RunStepResponse."""
        return self.call("RunStep", step_request(handle, fetch, target, feed, **fields))

    def run(self, handle: str, fetch: Any = (), target: Any = (), feed: Any = None, **fields: Any) -> list[Any]:
        """Run a step and return its tensors as arrays, in the order of the answer."""
        return [array(entry.tensor) for entry in self.step(handle, fetch, target, feed, **fields).tensor]

    def start_step(self, handle: str, *args: Any, **fields: Any) -> Future[bytes]:
        """Start a step without waiting."""
        return self.send("RunStep", step_request(handle, *args, **fields).SerializeToString())


def step_request(handle: str, fetch: Any = (), target: Any = (), feed: Any = None, **fields: Any) -> Any:
    """Return a RunStepRequest; `feed` maps names to values, or is a list of pairs."""
    request = wire.RunStepRequest(session_handle=handle, fetch=fetch, target=target, **fields)
    for name, value in feed.items() if isinstance(feed, dict) else feed or []:
        entry = request.feed.add(name=name)
        fill(entry.tensor, value)
    return request


def fill(tensor: Any, value: Any) -> None:
    """Make a TensorProto of a value; Python floats become float32, ints int32."""
    made = np.asarray(value)
    if not isinstance(value, (np.ndarray, np.generic)):
        made = made.astype({"f": np.float32, "i": np.int32}.get(made.dtype.kind, made.dtype))
    if made.dtype.kind == "S":
        made = made.astype(object)
    tensor.dtype = from_numpy(made.dtype)
    tensor.tensor_shape.SetInParent()
    for size in made.shape:
        tensor.tensor_shape.dim.add(size=size)
    if made.dtype == object:
        tensor.string_val.extend(made.ravel().tolist())
    else:
        tensor.tensor_content = made.tobytes()


def array(tensor: Any) -> Any:
    """Return a TensorProto as an array."""
    return decode_tensor(tensor.SerializeToString())


def wait_until_waiting(master: Caller, handle: str) -> None:
    """Wait until a step of the session waits in one of its nodes."""
    session = master.service.master.sessions[handle]
    deadline = time.monotonic() + 10
    while not any(node for step in list(session._running.values()) for _, _, node in step.waits()):
        assert time.monotonic() < deadline
        time.sleep(0.005)


@contextmanager
def serving(master: Master | None = None) -> Iterator[Caller]:
    """Serve a master on a loop of its own, and stop it at the end."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="test-loop")
    thread.start()
    service = MasterService(Master() if master is None else master)
    try:
        asyncio.run_coroutine_threadsafe(service.start(), loop).result(TIMEOUT_S)
        yield Caller(service, loop)
    finally:
        try:
            asyncio.run_coroutine_threadsafe(service.stop(1.0), loop).result(TIMEOUT_S)
            asyncio.run_coroutine_threadsafe(loop.shutdown_default_executor(), loop).result(TIMEOUT_S)
        finally:
            loop.call_soon_threadsafe(loop.stop)
            thread.join(TIMEOUT_S)
            loop.close()
