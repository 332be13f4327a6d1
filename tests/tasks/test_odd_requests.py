"""Requests of every kind and none, to all calls of the task plane: what is wrong is told as the caller's fault."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor

import runtime
from runtime import wire

SERVICES = (
    "ArmoniK.api.grpc.v1.Submitter",
    "armonik.api.grpc.v1.submitter.Submitter",
    "runtime.v1.Results",
    "runtime.v1.Submissions",
    "runtime.v1.TaskInspector",
    "runtime.v1.TaskUploads",
    "runtime.v1.Workers",
)
# A call that waits, or goes on, ends by its deadline.
FINE = {"OK", "INVALID_ARGUMENT", "NOT_FOUND", "FAILED_PRECONDITION", "ALREADY_EXISTS", "DEADLINE_EXCEEDED"}
WAIT_S = 1.0
REQUESTS = 12

TEXTS = ("", "s", "t", "\0", "a" * 300, "é", "t###1", "default", "COMPLETED")
BYTES = (b"", b"x", b"\xff" * 90_000)
NUMBERS = (0, 1, 5, -1, (1 << 31) - 1, -(1 << 31), (1 << 32) - 1, (1 << 63) - 1, (1 << 64) - 1)
FLOATS = (0.0, -1.0, float("nan"), float("inf"), 1e300, 0.5)


def made_up(kind: Descriptor, chance: random.Random, depth: int = 0) -> Any:
    """Return a message with whatever its fields can hold."""
    message: Any = message_factory.GetMessageClass(kind)()
    for field in kind.fields:
        if chance.random() < 0.35 or depth > 4:
            continue
        for _ in range(chance.choice((1, 1, 2, 3)) if field.is_repeated else 1):
            _fill(message, field, chance, depth)
    return message


def _fill(message: Any, field: FieldDescriptor, chance: random.Random, depth: int) -> None:
    if field.message_type is not None:
        if field.message_type.GetOptions().map_entry:
            getattr(message, field.name)["k"] = "v"
            return
        part = made_up(field.message_type, chance, depth + 1)
        (getattr(message, field.name).add() if field.is_repeated else getattr(message, field.name)).CopyFrom(part)
        return
    value: Any
    if field.type == FieldDescriptor.TYPE_STRING:
        value = chance.choice(TEXTS)
    elif field.type == FieldDescriptor.TYPE_BYTES:
        value = chance.choice(BYTES)
    elif field.type == FieldDescriptor.TYPE_BOOL:
        value = chance.random() < 0.5
    elif field.type in (FieldDescriptor.TYPE_DOUBLE, FieldDescriptor.TYPE_FLOAT):
        value = chance.choice(FLOATS)
    elif field.type == FieldDescriptor.TYPE_ENUM:
        value = chance.choice((0, 1, 2, 4, 9, 77, -1))
    else:
        value = chance.choice(NUMBERS)
    try:
        if field.is_repeated:
            getattr(message, field.name).append(value)
        else:
            setattr(message, field.name, value)
    except ValueError:
        pass  # more than the field holds


def requests_of(form: Any, chance: random.Random) -> list[bytes]:
    """Return what one call sends: messages, some of them cut off, or bytes that are none."""
    number = chance.choice((0, 1, 1, 2, 5)) if form.client_streaming else 1
    if chance.random() < 0.2:
        return [chance.randbytes(chance.randrange(40)) for _ in range(number)]
    found = [made_up(form.request.DESCRIPTOR, chance).SerializeToString() for _ in range(number)]
    return [data[: chance.randrange(len(data) + 1)] if chance.random() < 0.2 else data for data in found]


@pytest.mark.parametrize("service", SERVICES)
def test_no_request_is_a_mistake_of_the_server(tmp_path: Path, service: str) -> None:
    with (
        runtime.Server(services=("task",), data_dir=tmp_path, grace_s=0.0) as server,
        grpc.insecure_channel(server.address) as channel,
        runtime.TaskClient(server.target) as client,
    ):
        client.session("s").submit(b"x", id="t")
        for name, form in wire.SERVICES[service].items():
            chance = random.Random(f"{service}/{name}")
            for _ in range(REQUESTS):
                sent = requests_of(form, chance)
                calls = {
                    (True, True): channel.stream_stream, (True, False): channel.stream_unary,
                    (False, True): channel.unary_stream, (False, False): channel.unary_unary,
                }
                call: Any = calls[form.client_streaming, form.server_streaming](form.path)
                try:
                    answer = call(iter(sent) if form.client_streaming else sent[0], timeout=WAIT_S)
                    if form.server_streaming:
                        list(answer)
                except grpc.RpcError as error:
                    told: Any = error
                    assert told.code().name in FINE, f"{name}: {told.code()}: {told.details()}, for {sent!r:.500}"
                    assert told.details(), name
        assert channel.unary_unary("/grpc.health.v1.Health/Check")(b"", timeout=30) == b"\x08\x01"
