"""Readers say what protobuf says, or nothing; writers write what protobuf writes."""

from __future__ import annotations

import random
import sys

import pytest
from google.protobuf.message import DecodeError

from runtime import wire
from runtime._ext.task_messages import (
    CollectedWriter,
    OrdersWriter,
    TasksWriter,
    collected_values,
    ends_bytes,
    plain_orders,
    simple_ends,
    small_tasks,
)
from runtime.objects.value import Value
from runtime.tasks.model import TaskRequest

LIMIT = 300
TEXTS = ("a", "task-1", "schlüssel", "\N{GRINNING FACE}", "x" * 200)
MUTATIONS = 300


def _bytes(chance: random.Random) -> bytes:
    return chance.randbytes(chance.choice((1, 2, 50, 127, 128, LIMIT - 1)))


def _text(chance: random.Random) -> str:
    return chance.choice(TEXTS) + str(chance.randint(0, 9))


def _request(chance: random.Random) -> wire.armonik.CreateSmallTaskRequest:
    request = wire.armonik.CreateSmallTaskRequest(session_id=_text(chance))
    if chance.random() < 0.7:
        request.task_options.priority = chance.randint(0, 300)
    for _ in range(chance.randint(1, 4)):
        request.task_requests.add(
            id=_text(chance), expected_output_keys=[_text(chance)], payload=_bytes(chance),
            data_dependencies=[_text(chance) for _ in range(chance.choice((0, 0, 1, 3)))],
        )
    return request


def _tasks_of(request: wire.armonik.CreateSmallTaskRequest) -> list[TaskRequest]:
    return [
        TaskRequest(
            task.id, tuple(task.expected_output_keys), tuple(dict.fromkeys(task.data_dependencies)), Value(task.payload)
        )
        for task in request.task_requests
    ]


def _mutants(data: bytes, chance: random.Random) -> list[bytes]:
    """Return damaged messages."""
    found = []
    for _ in range(MUTATIONS):
        mutant = bytearray(data)
        for _ in range(chance.randint(1, 3)):
            kind, at = chance.random(), chance.randrange(len(mutant) or 1)
            if kind < 0.5 and mutant:
                mutant[at] = chance.choice((0, 1, 8, 10, 18, 26, 34, 127, 128, 255, chance.randrange(256)))
            elif kind < 0.7:
                del mutant[at : at + chance.randint(1, 4)]
            elif kind < 0.9:
                mutant[at:at] = chance.randbytes(chance.randint(1, 4))
            else:
                mutant[at:at] = mutant[chance.randrange(len(mutant) or 1) :][:40]
        found.append(bytes(mutant))
    return found


@pytest.mark.parametrize("seed", range(10))
def test_requests_are_read_as_protobuf_reads_them(seed: int) -> None:
    chance = random.Random(seed)
    request = _request(chance)
    data = request.SerializeToString()
    found = small_tasks(data, LIMIT, TaskRequest, Value)
    assert found is not None
    session_id, options, tasks = found
    assert (session_id, tasks) == (request.session_id, _tasks_of(request))
    assert {type(task) for task in tasks} == {TaskRequest} and {type(task.payload) for task in tasks} == {Value}
    assert options == (request.task_options.SerializeToString() if request.HasField("task_options") else None)
    for mutant in _mutants(data, chance):
        found = small_tasks(mutant, LIMIT, TaskRequest, Value)
        if found is not None:
            parsed = wire.armonik.CreateSmallTaskRequest()
            try:
                parsed.MergeFromString(mutant)
            except DecodeError:
                # The options are left for whoever parses them.
                assert found[1] is not None
                with pytest.raises(DecodeError):
                    wire.armonik.TaskOptions.FromString(found[1])
                continue
            assert found[0] == parsed.session_id and found[2] == _tasks_of(parsed)
            assert (found[1] is not None) == parsed.HasField("task_options")
            if found[1] is not None:
                assert wire.armonik.TaskOptions.FromString(found[1]) == parsed.task_options


@pytest.mark.parametrize(
    "change",
    [
        {"id": ""}, {"payload": b""}, {"payload": bytes(LIMIT)}, {"expected_output_keys": []},
        {"expected_output_keys": ["a", "b"]},
    ],
    ids=str,
)  # fmt: skip
def test_unusual_tasks_are_left_to_protobuf(change: dict[str, object]) -> None:
    usual = {"id": "t", "payload": b"x", "expected_output_keys": ["t"]}
    for fields, is_usual in ((usual, True), (usual | change, False)):
        request = wire.armonik.CreateSmallTaskRequest(session_id="s")
        request.task_requests.add(**fields)  # type: ignore[arg-type]
        found = small_tasks(request.SerializeToString(), LIMIT, TaskRequest, Value)
        assert (found is not None) is is_usual


def test_request_without_session_or_tasks_is_left_to_protobuf() -> None:
    assert small_tasks(b"", LIMIT, TaskRequest, Value) is None
    assert small_tasks(wire.armonik.CreateSmallTaskRequest(session_id="s").SerializeToString(), LIMIT, TaskRequest,
                       Value) is None
    request = wire.armonik.CreateSmallTaskRequest()
    request.task_requests.add(id="t", payload=b"x", expected_output_keys=["t"])
    assert small_tasks(request.SerializeToString(), LIMIT, TaskRequest, Value) is None


def test_only_named_tuples_are_made() -> None:
    with pytest.raises(TypeError, match="named tuples are needed"):
        small_tasks(b"", LIMIT, list, Value)  # type: ignore[type-var]


def test_tasks_that_were_read_leave_no_references_behind() -> None:
    data = _request(random.Random(1)).SerializeToString()
    small_tasks(data, LIMIT, TaskRequest, Value)
    before = sys.getallocatedblocks()
    for _ in range(1000):
        small_tasks(data, LIMIT, TaskRequest, Value)
        small_tasks(data[:-1], LIMIT, TaskRequest, Value)
    assert sys.getallocatedblocks() - before < 100


@pytest.mark.parametrize("seed", range(10))
def test_ends_are_read_as_protobuf_reads_them(seed: int) -> None:
    chance = random.Random(seed)
    news = wire.runtime_v1.TaskNews()
    for _ in range(chance.randint(0, 5)):
        news.end.add(
            number=chance.choice((0, 1, 127, 128, 2**64 - 1)), value=chance.choice((b"", _bytes(chance))),
            elapsed_us=chance.choice((0, 5, 2**40)),
        )
    data = news.SerializeToString()
    assert simple_ends(data, LIMIT) == [(end.number, end.value, end.elapsed_us) for end in news.end]
    for mutant in _mutants(data, chance):
        found = simple_ends(mutant, LIMIT)
        if found is not None:
            parsed = wire.runtime_v1.TaskNews.FromString(mutant)
            assert found == [(end.number, end.value, end.elapsed_us) for end in parsed.end]
            assert all(end.WhichOneof("outcome") == "value" and len(end.value) <= LIMIT for end in parsed.end)
            assert not (parsed.talk or parsed.begun or parsed.returned)


@pytest.mark.parametrize("seed", range(20))
def test_ends_are_written_as_protobuf_writes_them(seed: int) -> None:
    chance = random.Random(seed)
    news = wire.runtime_v1.TaskNews()
    ends = [
        (chance.choice((0, 1, 200, 2**63)), chance.choice((b"", _bytes(chance))), chance.choice((0, 5, 2**40)))
        for _ in range(chance.randint(0, 50))
    ]
    for number, value, elapsed_us in ends:
        news.end.add(number=number, value=value, elapsed_us=elapsed_us)
    assert ends_bytes(ends) == news.SerializeToString()
    assert simple_ends(ends_bytes(ends), LIMIT) == ends


def _same_orders(data: bytes) -> None:
    found = plain_orders(data)
    if found is None:
        return
    parsed = wire.runtime_v1.TaskOrders.FromString(data)
    assert not (parsed.cancel or parsed.talk or parsed.chunk_bytes or parsed.inline_bytes or parsed.HasField("places"))
    assert len(found) == len(parsed.task)
    for order, task in zip(found, parsed.task, strict=True):
        assert order.number == task.number
        assert (order.session_id, order.task_id) == (task.session_id, task.task_id)
        assert order.expected_output_key == tuple(task.expected_output_key)
        assert order.options == dict(task.options)
        assert order.payload == task.payload
        assert order.max_duration_s == task.max_duration_s or task.max_duration_s != task.max_duration_s
        assert order.is_announced == task.is_announced
        assert list(order.dependency) == list(task.dependency) == []
        assert not task.HasField("placed_payload") and not order.HasField("placed_payload")


@pytest.mark.parametrize("seed", range(20))
def test_orders_are_read_as_protobuf_reads_them(seed: int) -> None:
    chance = random.Random(seed)
    orders = wire.runtime_v1.TaskOrders()
    for _ in range(chance.randint(0, 5)):
        orders.task.add(
            number=chance.choice((0, 1, 200, 2**63)), session_id=chance.choice(("", _text(chance))),
            task_id=chance.choice(("", _text(chance))),
            expected_output_key=[_text(chance) for _ in range(chance.randint(0, 3))],
            options={_text(chance): _text(chance) for _ in range(chance.randint(0, 2))},
            payload=chance.choice((b"", _bytes(chance))), max_duration_s=chance.choice((0.0, 3600.0, 1e-9)),
            is_announced=chance.random() < 0.5,
        )  # fmt: skip
    data = orders.SerializeToString()
    assert plain_orders(data) is not None
    _same_orders(data)
    for mutant in _mutants(data, chance):
        _same_orders(mutant)


def test_other_orders_are_left_to_protobuf() -> None:
    task, named = wire.runtime_v1.BatchedTask, wire.runtime_v1.NamedBytes
    for other in (
        wire.runtime_v1.TaskOrders(cancel=[1]),
        wire.runtime_v1.TaskOrders(chunk_bytes=1),
        wire.runtime_v1.TaskOrders(places=wire.runtime_v1.PlacesFile(path="p")),
        wire.runtime_v1.TaskOrders(task=[task(number=1, dependency=[named(key="k", data=b"d")])]),
        wire.runtime_v1.TaskOrders(task=[task(placed_payload=wire.runtime_v1.PlacedBytes(size=1))]),
    ):
        assert plain_orders(other.SerializeToString()) is None


def test_other_news_are_left_to_protobuf() -> None:
    end = wire.runtime_v1.TaskEnd
    for other in (
        wire.runtime_v1.TaskNews(begun=[1]),
        wire.runtime_v1.TaskNews(returned=[1]),
        wire.runtime_v1.TaskNews(end=[end(number=1)]),
        wire.runtime_v1.TaskNews(end=[end(number=1, error="e")]),
        wire.runtime_v1.TaskNews(end=[end(number=1, value=b"v"), end(number=2, failure="f")]),
        wire.runtime_v1.TaskNews(end=[end(number=1, value=bytes(LIMIT + 1))]),
    ):
        assert simple_ends(other.SerializeToString(), LIMIT) is None


@pytest.mark.parametrize("seed", range(20))
def test_orders_are_written_as_protobuf_writes_them(seed: int) -> None:
    chance = random.Random(seed)
    limits = (chance.randint(1, 2**32 - 1), 5) if seed % 2 else (0, 0)
    writer = OrdersWriter(*limits)
    orders = wire.runtime_v1.TaskOrders(chunk_bytes=limits[0], inline_bytes=limits[1])
    for _ in range(chance.randint(0, 100)):
        # Maps have an order of their own in protobuf: one entry at most is the same bytes.
        options = chance.choice(({}, {_text(chance): ""}, {"": _text(chance)}))
        needs = [(chance.choice(("", _text(chance))), chance.choice((b"", _bytes(chance)))) for _ in range(seed % 3)]
        fields = (
            chance.choice((0, 1, 200, 2**63)), chance.choice(("", _text(chance))), chance.choice(("", _text(chance))),
            tuple(_text(chance) for _ in range(chance.randint(0, 3))), options, chance.choice((b"", _bytes(chance))),
            needs, chance.choice((0.0, 3600.0, 1e-9)), chance.random() < 0.5,
        )  # fmt: skip
        writer.add(*fields)
        number, session, name, keys, _, payload, _, seconds, is_announced = fields
        orders.task.add(
            number=number, session_id=session, task_id=name, expected_output_key=keys, options=options, payload=payload,
            dependency=[wire.runtime_v1.NamedBytes(key=key, data=data) for key, data in needs], max_duration_s=seconds,
            is_announced=is_announced,
        )
    assert writer.num_tasks == len(orders.task)
    assert writer.tobytes() == orders.SerializeToString()


def test_long_payloads_are_parts_of_the_message() -> None:
    writer, orders = OrdersWriter(7), wire.runtime_v1.TaskOrders(chunk_bytes=7)
    array = bytearray(b"xyz") * 1000
    for number, payload in enumerate(((b"a" * 5000,), b"b", (b"", memoryview(array), b"c"), (), b"", (b"d",)), 1):
        writer.add(number, "s", "t", ("t",), {}, payload, [("k", b"v")], 1.0, number % 2 == 0)
        whole = payload if isinstance(payload, bytes) else b"".join(payload)
        orders.task.add(
            number=number, session_id="s", task_id="t", expected_output_key=["t"], payload=whole, max_duration_s=1.0,
            dependency=[wire.runtime_v1.NamedBytes(key="k", data=b"v")], is_announced=number % 2 == 0,
        )
    assert not writer.is_whole
    parts = writer.parts()
    assert [part.obj for part in parts if isinstance(part, memoryview) and part.nbytes == len(array)] == [array]
    assert wire.runtime_v1.TaskOrders.FromString(b"".join(parts)) == orders
    assert writer.tobytes().startswith(b"".join(parts[:-1]))


def test_orders_have_all_options() -> None:
    options = {_text(random.Random(seed)) + str(seed): str(seed) for seed in range(50)}
    writer = OrdersWriter()
    writer.add(1, "s", "t", ("t",), options, b"x", [], 1.0, False)
    (task,) = wire.runtime_v1.TaskOrders.FromString(writer.tobytes()).task
    assert dict(task.options) == options


@pytest.mark.parametrize("text", ["\ud800", "a\udfff"])
def test_text_that_no_message_can_have_is_refused(text: str) -> None:
    writer = OrdersWriter()
    for fields in ((1, text, "t", ("t",), {}), (1, "s", text, ("t",), {}), (1, "s", "t", (text,), {}),
                   (1, "s", "t", ("t",), {text: ""}), (1, "s", "t", ("t",), {"": text})):
        with pytest.raises(UnicodeEncodeError):
            writer.add(*fields, b"x", [], 1.0, False)
    assert writer.num_tasks == 0 and writer.tobytes() == b""


@pytest.mark.parametrize("seed", range(10))
def test_collected_results_are_written_as_protobuf_writes_them(seed: int) -> None:
    chance = random.Random(seed)
    writer, reply = CollectedWriter(), wire.runtime_v1.CollectReply()
    for _ in range(chance.randint(0, 200)):
        key, value = chance.choice(("", _text(chance))), chance.choice((b"", _bytes(chance)))
        writer.add(key, value)
        reply.result.add(key=key, status="COMPLETED", num_bytes=len(value), value=value)
        if chance.random() < 0.1:
            single = wire.runtime_v1.CollectReply()
            single.result.add(key=key, status="ABORTED", error="e")
            writer.append(single.SerializeToString())
            reply.result.extend(single.result)
    assert len(writer) == reply.ByteSize()
    assert writer.tobytes() == reply.SerializeToString()


@pytest.mark.parametrize("seed", range(10))
def test_collected_results_are_read_as_protobuf_reads_them(seed: int) -> None:
    chance = random.Random(seed)
    reply = wire.runtime_v1.CollectReply()
    for _ in range(chance.randint(0, 5)):
        value = chance.choice((b"", _bytes(chance)))
        reply.result.add(key=_text(chance), status="COMPLETED", num_bytes=len(value), value=value)
    data = reply.SerializeToString()
    assert collected_values(data) == [(result.key, result.value) for result in reply.result]
    for mutant in _mutants(data, chance):
        found = collected_values(mutant)
        if found is not None:
            parsed = wire.runtime_v1.CollectReply.FromString(mutant)
            assert found == [(result.key, result.value) for result in parsed.result]
            assert all(result.status == "COMPLETED" and result.HasField("value") for result in parsed.result)
            assert not any(result.owner_id or result.error for result in parsed.result)


@pytest.mark.parametrize(
    "other",
    [{"status": "ABORTED"}, {"status": "COMPLETED"}, {"status": "COMPLETED", "value": b"v", "error": "e"}],
    ids=str,
)
def test_other_results_are_left_to_protobuf(other: dict[str, object]) -> None:
    reply = wire.runtime_v1.CollectReply()
    reply.result.add(key="k", **other)  # type: ignore[arg-type]
    assert collected_values(reply.SerializeToString()) is None


@pytest.mark.parametrize("seed", range(10))
def test_requests_are_written_as_protobuf_writes_them(seed: int) -> None:
    chance = random.Random(seed)
    head = wire.armonik.CreateSmallTaskRequest(session_id=_text(chance))
    head.task_options.priority = 3
    writer = TasksWriter(head.SerializeToString())
    for _ in range(chance.randint(0, 100)):
        name, payload = chance.choice(("", _text(chance))), chance.choice((b"", _bytes(chance)))
        keys, needs = (tuple(_text(chance) for _ in range(chance.randint(0, 3))) for _ in range(2))
        writer.add(name, keys, needs, payload)
        head.task_requests.add(id=name, expected_output_keys=keys, data_dependencies=needs, payload=payload)
    assert writer.tobytes() == head.SerializeToString()


def test_requests_take_texts_of_other_classes_and_refuse_what_is_none() -> None:
    class Name(str):
        __slots__ = ()

    writer = TasksWriter(b"")
    writer.add(Name("t"), (Name("k"),), (Name("d"),), b"x")
    (task,) = wire.armonik.CreateSmallTaskRequest.FromString(writer.tobytes()).task_requests
    assert (task.id, *task.expected_output_keys, *task.data_dependencies) == ("t", "k", "d")
    for fields in ((1, ("k",), ()), ("t", (b"k",), ()), ("t", ("k",), (None,))):
        with pytest.raises(TypeError):
            writer.add(*fields, b"x")  # type: ignore[arg-type]
    with pytest.raises(UnicodeEncodeError):
        writer.add("\ud800", ("k",), (), b"x")
    assert len(wire.armonik.CreateSmallTaskRequest.FromString(writer.tobytes()).task_requests) == 1
