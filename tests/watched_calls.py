"""A task's address behind which every call is noted, and then passed on as it came."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import grpc

from runtime import wire

__all__ = ["Seen", "Watched", "watched"]

DEADLINE_S = 20.0
_OPTIONS = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


@dataclass(eq=False)
class Seen:
    """One call.

    Attributes
    ----------
    method : str
        Without its service.
    request : message
    answer : message or None
        None while there is none, and where the call failed.
    is_cancelled : bool
        Whether the caller has given it up.
    """

    method: str
    request: Any
    answer: Any = None
    is_cancelled: bool = False


class Watched(grpc.GenericRpcHandler):
    """The calls of tensorflow.WorkerService to one task. Safe from several threads.

    Parameters
    ----------
    address : str
        Of the task itself.

    Attributes
    ----------
    calls : list of Seen
        In the order in which they came.
    refusals : dict of str to (grpc.StatusCode, str)
        By method, for calls that are not to reach the task.
    kept_back : dict of str to threading.Event
        By method, for answers that are not to reach the caller before the event is set, or the caller has gone.
    """

    def __init__(self, address: str) -> None:
        self.calls: list[Seen] = []
        self.refusals: dict[str, tuple[grpc.StatusCode, str]] = {}
        self.kept_back: dict[str, threading.Event] = {}
        self._channel = grpc.insecure_channel(address, _OPTIONS)

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        path = details.method
        service, _, method = path.removeprefix("/").partition("/")
        kinds = wire.SERVICES[service][method]

        def handle(request: bytes, context: grpc.ServicerContext) -> bytes:
            seen = Seen(method, kinds.request.FromString(request))
            self.calls.append(seen)
            if method in self.refusals:
                context.abort(*self.refusals[method])
            future = self._channel.unary_unary(path).future(request)

            def gone() -> None:
                if not future.done():
                    seen.is_cancelled = True
                    future.cancel()

            if not context.add_callback(gone):
                gone()
            try:
                answer: bytes = future.result()
                context.set_trailing_metadata(tuple(future.trailing_metadata() or ()))
            except grpc.FutureCancelledError:
                context.abort(grpc.StatusCode.CANCELLED, "the caller has gone")
            except grpc.RpcError as error:
                context.set_trailing_metadata(tuple(error.trailing_metadata() or ()))
                context.abort(error.code(), error.details())
            seen.answer = kinds.response.FromString(answer)
            go_on = self.kept_back.get(method)
            if go_on is not None:
                assert self.until(lambda: go_on.is_set() or not context.is_active())
                seen.is_cancelled = not go_on.is_set()
            return answer

        return grpc.unary_unary_rpc_method_handler(handle)

    def of(self, *methods: str) -> list[Seen]:
        """Return the calls of some methods so far; of all without any."""
        return [seen for seen in list(self.calls) if not methods or seen.method in methods]

    def until(self, found: Callable[[], Any], timeout_s: float = DEADLINE_S) -> Any:
        """Return what a function finds, asked again until it finds something; fail when it does not in time."""
        deadline = time.monotonic() + timeout_s
        while not (answer := found()):
            assert time.monotonic() < deadline, f"not among {[seen.method for seen in self.of()]}"
            time.sleep(0.01)
        return answer

    def close(self) -> None:
        self._channel.close()


@contextlib.contextmanager
def watched(address: str, listen: str) -> Iterator[Watched]:
    """Watch the calls to a task at another address.

    Parameters
    ----------
    address : str
        Of the task.
    listen : str
        The address to call it at.
    """
    made = Watched(address)
    with ThreadPoolExecutor(16, thread_name_prefix="watched") as pool:
        server = grpc.server(pool, handlers=(made,), options=[*_OPTIONS, ("grpc.so_reuseport", 0)])
        assert server.add_insecure_port(listen), listen
        server.start()
        try:
            yield made
        finally:
            made.close()
            stopped: threading.Event = server.stop(0)
            assert stopped.wait(DEADLINE_S)
