"""The gRPC server object: how calls come from the transport to their handlers.

grpc.aio's own server decodes the path of every call inside its one accept loop. A path that is not UTF-8, which any
client can send, raises there, and the server then cancels the calls of everybody and closes (grpcio 1.85). Here the
known methods are registered with gRPC's core instead, each is accepted by a loop of its own that knows the name
already, and all other calls are refused without looking at their path. That also spares each call a wait on a set
of futures and a parse of its metadata.

It takes private names of grpcio, so it is used only with versions in which it was tested; :func:`make_server` falls
back to the public server for all others.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
from typing import TYPE_CHECKING, Any, Protocol

import grpc
from grpc import aio

from runtime.edge.handlers import Router
from runtime.process_tuning import TESTED_GRPC

if TYPE_CHECKING:
    Rpc = grpc.RpcMethodHandler[Any, Any]

logger = logging.getLogger(__name__)

_PRIVATE_NAMES = (
    "AioServer",
    "_RequestCallError",
    "_ServicerContext",
    "_handle_rpc",
    "_handle_unary_unary_rpc",
    "_schedule_rpc_coro",
)


class GrpcServer(Protocol):
    """What the listener needs of a gRPC server; ``grpc.aio.Server`` has it."""

    def add_insecure_port(self, address: str) -> int:
        """Bind an address in clear text and return its port; RuntimeError if that fails."""
        ...

    def add_secure_port(self, address: str, server_credentials: grpc.ServerCredentials) -> int:
        """Bind an address with TLS and return its port; RuntimeError if that fails."""
        ...

    async def start(self) -> None:
        """Begin to answer."""
        ...

    async def stop(self, grace: float | None) -> None:
        """Refuse new calls and wait for open ones; after ``grace`` seconds (None: at once) cancel them."""
        ...


def make_server(router: Router, options: list[tuple[str, Any]]) -> GrpcServer:
    """Return a server whose calls go to ``router``; no method may be added to that after the server has started."""
    if supported():
        return RegisteredServer(router, options)
    logger.warning(
        "this grpcio was not tested: a request with a malformed path can make it close the server",
        extra={"grpcio": grpc.__version__, "tested": ",".join(f"{version}x" for version in TESTED_GRPC)},
    )
    return aio.server(handlers=(router,), options=options)


def supported() -> bool:
    """Return whether the installed grpcio is one for which :class:`RegisteredServer` was tested."""
    cygrpc = _cygrpc()
    return grpc.__version__.startswith(TESTED_GRPC) and all(hasattr(cygrpc, name) for name in _PRIVATE_NAMES)


def _cygrpc() -> Any:
    return importlib.import_module("grpc._cython.cygrpc")


class RegisteredServer:
    """A server of registered methods.

    Parameters
    ----------
    router : Router
        Has the handler of every method.
    options : list of (str, value)
        gRPC's channel arguments.
    """

    def __init__(self, router: Router, options: list[tuple[str, Any]]) -> None:
        self._router = router
        self._core = _core_class()(asyncio.get_running_loop(), router, options)

    def add_insecure_port(self, address: str) -> int:
        """See :class:`GrpcServer`."""
        return self._bound(address, self._core.add_insecure_port(address.encode()))

    def add_secure_port(self, address: str, server_credentials: grpc.ServerCredentials) -> int:
        """See :class:`GrpcServer`."""
        return self._bound(address, self._core.add_secure_port(address.encode(), server_credentials))

    @staticmethod
    def _bound(address: str, port: int) -> int:
        if port == 0:
            raise RuntimeError(f"failed to bind {address}")
        return port

    async def start(self) -> None:
        """See :class:`GrpcServer`."""
        self._core.add_registered_method_handlers(self._router.handlers)
        await self._core.start()

    async def stop(self, grace: float | None) -> None:
        """See :class:`GrpcServer`."""
        await self._core.shutdown(grace)


def _core_class() -> Any:
    """Return the subclass of grpcio's server; made on first use, for its base may not be there."""
    global _core
    if _core is None:
        _core = _make_core_class()
    return _core


_core: Any = None


def _make_core_class() -> Any:
    cygrpc = _cygrpc()
    base: Any = cygrpc.AioServer
    handle_unary = cygrpc._handle_unary_unary_rpc
    handle_any = cygrpc._handle_rpc
    schedule = cygrpc._schedule_rpc_coro
    context_of = cygrpc._ServicerContext
    closing: type[Exception] = cygrpc._RequestCallError

    class Core(base):  # type: ignore[misc]
        """Accept each method in a task of its own.

        The base class starts gRPC's core, then asks :meth:`_make_request_call_future` once for every registered
        method and once, with None, for all others, and waits until one of the futures is done. The latter future
        stands here for all accepting, and ends when the core shuts down.
        """

        def __init__(self, loop: asyncio.AbstractEventLoop, router: Router, options: list[tuple[str, Any]]) -> None:
            super().__init__(loop, None, (), None, tuple(options), None)
            self.loop = loop
            self.router = router
            self.methods: list[bytes] = []
            self.never = loop.create_future()
            self.calls: set[asyncio.Task[None]] = set()

        def _make_request_call_future(self, method: bytes | None) -> asyncio.Future[Any]:
            if method is not None:
                self.methods.append(method)
                return self.never
            return self.loop.create_task(self._accept())

        async def _accept(self) -> None:
            accepting = [self._accept_method(method) for method in self.methods]
            try:
                await asyncio.gather(*accepting, self._accept_unknown())
            except closing:
                raise
            except Exception:
                # Not reached by anything a client can send; the base class closes the server.
                logger.exception("accepting calls failed")
                raise

        async def _accept_method(self, method: bytes) -> None:
            path = method.decode()
            handler = self.router.handlers[path]
            plain = not (self.router.checks or handler.request_streaming or handler.response_streaming)
            loop, router, request = self.loop, self.router, self._request_registered_call
            create_task, calls = loop.create_task, self.calls
            while True:
                call = await request(method)
                work = handle_unary(handler, call, loop) if plain else handle_any(path, router, (), call, loop, False)
                task = create_task(schedule(work, call, loop, path))
                calls.add(task)
                task.add_done_callback(calls.discard)

        async def _accept_unknown(self) -> None:
            while True:
                call = await self._request_call()
                task = self.loop.create_task(schedule(self._refuse(call), call, self.loop, "an unknown method"))
                self.calls.add(task)
                task.add_done_callback(self.calls.discard)

        async def _refuse(self, call: Any) -> None:
            context = context_of(call, None, None, self.loop)
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, self.router.unknown_method)

    return Core
