"""Planes that do what the request says, so that tests can see how the server treats them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from runtime import errors

RUN_STEP = "/tensorflow.MasterService/RunStep"
SEND_LOGS = "/taskqueue.TaskQueue/SendTaskLogs"
STREAM_LOGS = "/taskqueue.TaskQueue/StreamTaskLogs"
PROCESS = "/ArmoniK.api.grpc.v1.Worker/Process"

TARGETS = {
    "graph": "tests.server.fake_planes:create_graph",
    "command": "tests.server.fake_planes:create_command",
    "task": "tests.server.fake_planes:create_task",
}
events: list[str] = []


class FakePlane:
    def __init__(self, name: str, settings: Any) -> None:
        self.name = name
        self.settings = settings
        self.drained = asyncio.Event()

    async def start(self) -> None:
        events.append(f"{self.name} starts on {self.settings.listen}")

    def drain(self) -> None:
        events.append(f"{self.name} drains")
        self.drained.set()

    async def stop(self, grace: float) -> None:
        events.append(f"{self.name} stops")

    async def answer(self, request: bytes, context: Any) -> bytes:
        verb, _, rest = request.decode().partition(" ")
        match verb:
            case "echo":
                return request
            case "sleep":
                events.append("sleeping")
                await asyncio.sleep(float(rest))
                return b"slept"
            case "forever":
                events.append("waiting")
                try:
                    await asyncio.Event().wait()
                except asyncio.CancelledError:
                    events.append("cancelled")
                    raise
            case "until-drain":
                events.append("waits for the drain")
                await self.drained.wait()
                return b"drained"
            case "size":
                return bytes(int(rest))
            case "code":
                raise errors.from_code(int(rest), f"you asked for {rest}")
            case "long":
                raise errors.InvalidArgument(rest * 5000)
            case "trailers":
                error = errors.Aborted("with trailers")
                error.trailers = (("x-note-bin", b"\x00\x01"),)  # type: ignore[attr-defined]
                raise error
            case "bug":
                raise ZeroDivisionError("secret detail")
            case "memory":
                raise MemoryError
            case "bytearray":
                return bytearray(b"x")  # type: ignore[return-value]
            case "parse":
                from runtime import wire

                wire.GraphDef.FromString(b"\xff\xff")
        raise AssertionError(request)

    async def collect(self, requests: AsyncIterator[bytes], context: Any) -> bytes:
        sizes = [len(request) async for request in requests]
        return ",".join(map(str, sizes)).encode()

    async def stream(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        verb, _, rest = request.decode().partition(" ")
        if verb == "count":
            for number in range(int(rest)):
                yield str(number).encode()
        elif verb == "sizes":
            for size in rest.split(","):
                yield bytes(int(size))
        elif verb == "fail":
            yield b"first"
            raise errors.DataLoss("after the first")
        elif verb == "forever":
            try:
                while True:
                    yield b"more"
                    await asyncio.sleep(0.01)
            finally:
                events.append("stream closed")

    async def echo_stream(self, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        async for request in requests:
            yield request


def create_graph(settings: Any) -> Any:
    return _with_table(FakePlane("graph", settings), lambda p: {"tensorflow.MasterService": {"RunStep": p.answer}})


def create_command(settings: Any) -> Any:
    return _with_table(
        FakePlane("command", settings),
        lambda p: {"taskqueue.TaskQueue": {"SendTaskLogs": p.collect, "StreamTaskLogs": p.stream}},
    )


def create_task(settings: Any) -> Any:
    return _with_table(
        FakePlane("task", settings), lambda p: {"ArmoniK.api.grpc.v1.Worker": {"Process": p.echo_stream}}
    )


def _with_table(plane: FakePlane, table: Any) -> FakePlane:
    plane.services = lambda: table(plane)  # type: ignore[attr-defined]
    return plane
