"""gRPC server reflection, v1 and v1alpha: what services there are and what their messages look like.

Tools such as grpcurl ask these before they can call anything. Answers come from our own descriptor pool, with
every file that the asked one depends on.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Any

from google.protobuf.descriptor import FileDescriptor

from runtime import wire
from runtime.edge.plane import Handler
from runtime.errors import InvalidArgument, NotFound

VERSIONS = {
    "grpc.reflection.v1.ServerReflection": "v1",
    "grpc.reflection.v1alpha.ServerReflection": "v1alpha",
}


class Reflection:
    """Both versions of the reflection service.

    Parameters
    ----------
    services : iterable of str
        Full names of the services to list.

    Concurrency: to be used on the server's event loop only.
    """

    def __init__(self, services: Iterable[str]) -> None:
        self._services = sorted(services)
        self._drained = asyncio.Event()

    def drain(self) -> None:
        """End the open streams: a client that keeps one open would hold up the drain."""
        self._drained.set()

    def services(self) -> Mapping[str, Mapping[str, Handler]]:
        """Return the handlers of both services."""
        return {name: {"ServerReflectionInfo": self._handler(version)} for name, version in VERSIONS.items()}

    def _handler(self, version: str) -> Handler:
        messages = getattr(wire.reflection, version)

        async def handler(requests: AsyncIterator[bytes], _context: Any) -> AsyncIterator[bytes]:
            drained = asyncio.ensure_future(self._drained.wait())
            try:
                while True:
                    arrival = asyncio.ensure_future(anext(requests, None))
                    try:
                        await asyncio.wait((arrival, drained), return_when=asyncio.FIRST_COMPLETED)
                    finally:
                        if not arrival.done():
                            arrival.cancel()
                    if not arrival.done() or arrival.cancelled():
                        return
                    raw = arrival.result()
                    if raw is None:
                        return
                    yield self._answer(messages, raw)
            finally:
                drained.cancel()

        return handler

    def _answer(self, messages: Any, raw: bytes) -> bytes:
        request = messages.ServerReflectionRequest.FromString(raw)
        response = messages.ServerReflectionResponse(valid_host=request.host, original_request=request)
        kind = request.WhichOneof("message_request")
        try:
            if kind == "list_services":
                for name in self._services:
                    response.list_services_response.service.add(name=name)
            elif kind == "file_by_filename":
                self._put_files(response, _find(wire.POOL.FindFileByName, request.file_by_filename, "file"))
            elif kind == "file_containing_symbol":
                find = wire.POOL.FindFileContainingSymbol
                self._put_files(response, _find(find, request.file_containing_symbol, "symbol"))
            elif kind == "file_containing_extension":
                asked = request.file_containing_extension
                _find(wire.POOL.FindMessageTypeByName, asked.containing_type, "message")
                raise NotFound(f"{asked.containing_type} has no extension {asked.extension_number}")
            elif kind == "all_extension_numbers_of_type":
                name = request.all_extension_numbers_of_type
                # None of our messages has an extension, but the type must exist for the empty answer to be true.
                _find(wire.POOL.FindMessageTypeByName, name, "message")
                response.all_extension_numbers_response.base_type_name = name
            else:
                raise InvalidArgument("the request asks for nothing: message_request is not set")
        except (NotFound, InvalidArgument) as error:
            response.error_response.error_code = error.code
            response.error_response.error_message = error.message
        return bytes(response.SerializeToString())

    @staticmethod
    def _put_files(response: Any, first: FileDescriptor) -> None:
        seen: set[str] = set()
        waiting = [first]
        while waiting:
            file = waiting.pop()
            if file.name not in seen:
                seen.add(file.name)
                response.file_descriptor_response.file_descriptor_proto.append(file.serialized_pb)
                waiting.extend(file.dependencies)


def _find(find: Any, name: str, what: str) -> Any:
    try:
        return find(name)
    except (KeyError, UnicodeError):
        raise NotFound(f"no {what} is called {name!r} here") from None
