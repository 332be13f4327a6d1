"""A client of TaskUploads.CreateNear that sends raw messages, and what is left on the server."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
from collections.abc import AsyncIterator
from typing import Any

import grpc

from runtime import wire
from runtime._ext.crc32c import crc32c
from runtime.objects.files import FileObjects
from runtime.objects.head import answer_to, open_values
from runtime.objects.locks import lock, unlock
from runtime.transport.place import here
from tests.conformance.armonik.submitter import Submitter, options, refused, task

R = wire.runtime_v1
MEDIUM = b"x" * 100_000
TIMEOUT_S = 20.0


class Near:
    """A client, one message after the other."""

    def __init__(self, submitter: Submitter) -> None:
        method = wire.SERVICES["runtime.v1.TaskUploads"]["CreateNear"]
        self.objects = submitter.tasks.objects
        self.call = submitter.channel.stream_stream(
            method.path, request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=method.response.FromString,
        )(timeout=TIMEOUT_S)
        self.answers: list[list[str]] = []
        self.file = -1
        self.lock_at = 0
        self.proof = b""

    async def say(self, **fields: Any) -> None:
        """Send a message."""
        await self.call.write(R.NearRequest(**fields))

    async def hear(self) -> Any:
        """Return the next answer, None at the end."""
        reply = await self.call.read()
        return None if reply is grpc.aio.EOF else reply

    async def greet(self, *, may_begin: bool = False) -> Any:
        """Say who it is, open the file, lock it; return what the server has said."""
        challenge = secrets.token_bytes(32)
        await self.say(boot_id=here().boot_id, challenge=challenge, may_begin=may_begin)
        reply = await self.hear()
        found = open_values(reply.file.path, reply.file.device, reply.file.number, os.O_RDWR)
        assert found is not None
        self.file, secret = found
        assert reply.file.proof == answer_to(b"server", challenge + reply.challenge, secret)
        assert secret not in reply.SerializeToString()
        self.proof = answer_to(b"client", challenge + reply.challenge, secret)
        self.lock_at = reply.lock_at
        return reply

    async def begin(self, *, may_begin: bool = False) -> None:
        """Do everything up to the first place."""
        await self.greet(may_begin=may_begin)
        lock(self.file, self.lock_at)
        await self.say(proof=self.proof)

    async def places(self, *sizes: int) -> list[int]:
        """Ask for places."""
        await self.say(wanted=sizes)
        while not (reply := await self.hear()).lent:
            self.answers.append(refused(reply.created))
        return list(reply.lent)

    async def answer(self) -> list[str]:
        """Return the ids that the next answer holds against tasks."""
        return self.answers.pop(0) if self.answers else refused((await self.hear()).created)

    def write(self, place: int, data: bytes) -> Any:
        """Write a payload; return what is told of it."""
        os.pwrite(self.file, data, place)
        return R.PlacedBytes(offset=place, size=len(data), crc32c=crc32c(data))

    async def placed(self, *names: str, data: bytes = MEDIUM) -> list[Any]:
        """Return tasks whose payloads were written."""
        places = await self.places(*[len(data)] * len(names))
        assert all(places)
        return [near(name, self.write(place, data)) for name, place in zip(names, places, strict=True)]

    def go(self) -> None:
        """Let the lock go."""
        if self.file >= 0:
            unlock(self.file, self.lock_at)
            os.close(self.file)
            self.file = -1


def near(name: str, place: Any = None, payload: bytes = b"") -> Any:
    """Return a task for a message."""
    request = task(name)
    request.payload = payload
    return R.NearTask(request=request, payload=place)


def of(*tasks: Any, session: str = "s", **changes: Any) -> Any:
    """Return tasks for a message."""
    return R.NearTasks(session_id=session, task_options=options(**changes), task=tasks)


@contextlib.asynccontextmanager
async def client(submitter: Submitter) -> AsyncIterator[Near]:
    """Return one, whose call and lock are gone afterwards."""
    found = Near(submitter)
    try:
        yield found
    finally:
        found.call.cancel()
        found.go()


def arena_of(submitter: Submitter) -> Any:
    objects = submitter.tasks.objects
    assert isinstance(objects, FileObjects)
    return objects.arena


async def settled(submitter: Submitter, values: int, withheld_bytes: int = 0) -> None:
    """Wait until nothing is lent and so many medium values are there."""
    objects = submitter.tasks.objects
    assert isinstance(objects, FileObjects)
    async with asyncio.timeout(TIMEOUT_S):
        while (objects.lender.nbytes, objects.arena.withheld_bytes) != (withheld_bytes,) * 2 or (
            len(objects.arena.names) != values
        ):
            await asyncio.sleep(0.01)
