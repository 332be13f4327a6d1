"""The wrapper around every method: errors to status codes, bytes counted, one lookup per call.

A wrapper is made once, when a server starts, and then runs for each call, so what it does there is measured in
hundreds of nanoseconds. All are ``async def``: gRPC runs a plain ``def`` in a thread pool, which costs a small
call about a quarter of its time.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any, NoReturn

import grpc
from grpc.aio import AbortError

from runtime._ext.message_parts import MessageParts
from runtime.edge.failures import as_domain_error
from runtime.edge.limits import WATCHED_ANSWER_BYTES, Account
from runtime.errors import Error, grpc_status, header_message

if TYPE_CHECKING:
    from runtime.edge.auth import Authorize
    from runtime.edge.plane import Answer
    from runtime.edge.transport import MethodForm

    Rpc = grpc.RpcMethodHandler[Any, Any]


class Router(grpc.GenericRpcHandler):
    """Find the handler of a call by its path, after its token was checked.

    The check comes before gRPC reads the request, so a stranger cannot make the server hold a large message.

    Parameters
    ----------
    authorize : callable or None
        Takes the call's path and metadata and returns None, or the error that refuses the call.

    Attributes
    ----------
    handlers : dict
        gRPC's handler object by path, ``/SERVICE/METHOD``.
    unknown_method : str
        What a call of any other path is told.
    """

    def __init__(self, authorize: Authorize | None) -> None:
        self.handlers: dict[str, Rpc] = {}
        self.unknown_method = "no such method here"
        self.open_calls = None if authorize is None else OpenCalls(authorize)
        self._authorize = authorize

    @property
    def checks(self) -> bool:
        """Whether calls need a token."""
        return self._authorize is not None

    def add(self, path: str, handler: Rpc) -> None:
        """Register the handler of one method by its path."""
        self.handlers[path] = handler

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Rpc | None:
        """Return the handler for a call, or None, which gRPC answers with UNIMPLEMENTED."""
        if self._authorize is not None:
            error = self._authorize(handler_call_details.method, handler_call_details.invocation_metadata)
            if error is not None:
                return refusal(error)
            assert self.open_calls is not None
            self.open_calls.enter(handler_call_details)
        return self.handlers.get(handler_call_details.method)

    # The name under which gRPC's own resolver of methods has it.
    resolve_handler = service


class OpenCalls:
    """Calls that were let in, so that they can be ended when their credential is taken away.

    Parameters
    ----------
    authorize : callable
        See :class:`Router`.
    """

    def __init__(self, authorize: Authorize) -> None:
        self._authorize = authorize
        self._open: dict[asyncio.Task[Any], grpc.HandlerCallDetails] = {}
        self._expelled: dict[asyncio.Task[Any], Error] = {}

    def check_again(self) -> None:
        """End the calls of those who may not make them any more."""
        for task, details in list(self._open.items()):
            error = self._authorize(details.method, details.invocation_metadata)
            if error is not None and task not in self._expelled:
                self._expelled[task] = error
                task.cancel()

    def watched(self, method: MethodForm, handler: Callable[..., Any]) -> Callable[..., Any]:
        """Return a handler that can be ended by :meth:`check_again`."""

        async def answer(request: Any, context: Any) -> Any:
            try:
                return await handler(request, context)
            except asyncio.CancelledError:
                self._explain()
                raise

        async def stream(request: Any, context: Any) -> AsyncIterator[Answer]:
            answers = handler(request, context)
            try:
                async for message in answers:
                    yield message
            except asyncio.CancelledError:
                self._explain()
                raise
            finally:
                close = getattr(answers, "aclose", None)
                if close is not None:
                    await close()

        return stream if method.server_streaming else answer

    def enter(self, details: grpc.HandlerCallDetails) -> None:
        """Note the call of the task that runs: it counts from its headers on, also while its request is awaited."""
        task = asyncio.current_task()
        if task is not None:
            self._open[task] = details
            task.add_done_callback(self._leave)

    def _leave(self, task: asyncio.Task[Any]) -> None:
        self._open.pop(task, None)
        self._expelled.pop(task, None)

    def _explain(self) -> None:
        """Raise the error that a call was ended with, if it was not its client that left."""
        task = asyncio.current_task()
        error = None if task is None else self._expelled.get(task)
        if task is not None and error is not None:
            task.uncancel()
            raise error from None


def refusal(error: Error) -> Rpc:
    """Return a handler that answers every call with an error, without reading what the client sends.

    It has the form stream to stream, which on the wire fits calls of all four forms.
    """

    async def refuse(_requests: Any, context: Any) -> None:
        await _abort(context, error)

    return grpc.stream_stream_rpc_method_handler(refuse)


def wrap(method: MethodForm, handler: Callable[..., Any], account: Account) -> Rpc:
    """Return gRPC's handler object for a plane's handler, of the form that the method has."""
    if method.client_streaming:
        if method.server_streaming:
            return grpc.stream_stream_rpc_method_handler(_stream_stream(method.path, handler, account))
        return grpc.stream_unary_rpc_method_handler(_stream_unary(method.path, handler, account))
    if method.server_streaming:
        return grpc.unary_stream_rpc_method_handler(_unary_stream(method.path, handler, account))
    return grpc.unary_unary_rpc_method_handler(_unary_unary(method.path, handler, account))


def _unary_unary(path: str, handler: Callable[..., Any], account: Account) -> Callable[..., Any]:
    async def call(request: bytes, context: Any) -> bytes:
        nbytes = len(request)
        if account.used + nbytes > account.limit or (account.others and not account.fits(nbytes)):
            await _abort(context, account.refusal(nbytes, "a request"))
        account.used += nbytes
        account.num_calls += 1
        try:
            response = _joined(await handler(request, context), "returned")
            if len(response) >= WATCHED_ANSWER_BYTES:
                account.hold_answer(len(response), context)
            return response
        except Exception as error:
            await _fail(path, context, error)
        finally:
            account.used -= nbytes

    return call


def _unary_stream(path: str, handler: Callable[..., Any], account: Account) -> Callable[..., Any]:
    async def call(request: bytes, context: Any) -> AsyncIterator[bytes]:
        nbytes = len(request)
        if not account.fits(nbytes):
            await _abort(context, account.refusal(nbytes, "a request"))
        account.used += nbytes
        account.num_calls += 1
        try:
            async for message in _counted_answers(handler(request, context), account):
                yield message
        except Exception as error:
            await _fail(path, context, error)
        finally:
            account.used -= nbytes

    return call


def _stream_unary(path: str, handler: Callable[..., Any], account: Account) -> Callable[..., Any]:
    async def call(requests: AsyncIterator[bytes], context: Any) -> bytes:
        account.num_calls += 1
        counted = _CountedRequests(requests, account)
        try:
            response = _joined(await handler(counted, context), "returned")
            if len(response) >= WATCHED_ANSWER_BYTES:
                account.hold_answer(len(response), context)
            return response
        except Exception as error:
            await _fail(path, context, error)
        finally:
            counted.release()

    return call


def _stream_stream(path: str, handler: Callable[..., Any], account: Account) -> Callable[..., Any]:
    async def call(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        account.num_calls += 1
        counted = _CountedRequests(requests, account)
        try:
            async for message in _counted_answers(handler(counted, context), account):
                yield message
        except Exception as error:
            await _fail(path, context, error)
        finally:
            counted.release()

    return call


class _CountedRequests:
    """Count each message of a request stream from its arrival until the next one is asked for."""

    __slots__ = ("_account", "_held", "_source")

    def __init__(self, source: AsyncIterator[bytes], account: Account) -> None:
        self._source = source.__aiter__()
        self._account = account
        self._held = 0

    def __aiter__(self) -> _CountedRequests:
        return self

    async def __anext__(self) -> bytes:
        self.release()
        message = await self._source.__anext__()
        nbytes = len(message)
        if not self._account.fits(nbytes):
            raise self._account.refusal(nbytes, "a message of the request stream")
        self._account.used += nbytes
        self._held = nbytes
        return message

    def release(self) -> None:
        self._account.used -= self._held
        self._held = 0


async def _counted_answers(answers: AsyncIterator[Answer], account: Account) -> AsyncIterator[bytes]:
    """Count each message of an answer stream until gRPC has taken it, and close the stream in any case."""
    try:
        async for answer in answers:
            message = _joined(answer, "yielded")
            nbytes = len(message)
            if not account.fits(nbytes):
                raise account.refusal(nbytes, "a message of the answer stream")
            account.used += nbytes
            try:
                yield message
            finally:
                account.used -= nbytes
    finally:
        close = getattr(answers, "aclose", None)
        if close is not None:
            await close()


def _joined(answer: Answer, verb: str) -> bytes:
    """Return an answer as the one bytes object that gRPC takes."""
    if answer.__class__ is MessageParts:
        return bytes(answer)
    if answer.__class__ is not bytes:
        raise TypeError(f"the handler {verb} {type(answer).__name__} in place of bytes")
    return answer


async def _fail(path: str, context: Any, error: Exception) -> NoReturn:
    """End a call with the status that belongs to an exception."""
    if isinstance(error, (AbortError, grpc.RpcError)) or type(error).__name__ in ("UsageError", "ExecuteBatchError"):
        raise error  # aborted already, or the call itself is gone and gRPC deals with it
    await _abort(context, as_domain_error(path, error))


async def _abort(context: Any, error: Error) -> NoReturn:
    trailers: tuple[tuple[str, str | bytes], ...] = getattr(error, "trailers", ())
    await context.abort(grpc_status(error.code), header_message(error.message), trailers)
    raise AssertionError("abort() returned")

