"""Long fields taken out of messages: together with the rest they are what protobuf has read."""

from __future__ import annotations

import random

import pytest

from runtime import wire
from runtime._ext.message_cuts import cut_fields

R = wire.runtime_v1
LEAST = 100


def made(seed: int) -> bytes:
    chance = random.Random(seed)
    orders = R.TaskOrders(cancel=[1, 300], chunk_bytes=chance.choice((0, 84000)), inline_bytes=7)
    for number in range(chance.randint(0, 6)):
        task = orders.task.add(
            number=number + 1, session_id="s", task_id=f"t{number}", expected_output_key=["k"] * chance.randint(0, 2),
            payload=chance.randbytes(chance.choice((0, 1, LEAST - 1, LEAST, 127, 128, 20_000, 2_100_000))),
            max_duration_s=1.5, is_announced=chance.random() < 0.5,
        )
        task.options["key"] = "value"
        if chance.random() < 0.3:
            task.dependency.add(key="d", data=chance.randbytes(3000))
    return orders.SerializeToString()


@pytest.mark.parametrize("seed", range(30))
def test_rest_and_pieces_are_the_message(seed: int) -> None:
    data = made(seed)
    expected = R.TaskOrders.FromString(data)
    rest, places = cut_fields(data, 1, 6, LEAST)
    orders = R.TaskOrders.FromString(rest)
    assert len(places) == len(orders.task) == len(expected.task)
    for task, whole, place in zip(orders.task, expected.task, places, strict=True):
        assert (place is not None) == (len(whole.payload) >= LEAST)
        if place is not None:
            assert task.payload == b""
            task.payload = data[place[0] : place[1]]
    assert orders == expected
    if not any(places):
        assert rest is data


def test_unknown_fields_and_groups_stay() -> None:
    task = b"\x08\x01" + b"\x32\xc8\x01" + b"p" * 200 + b"\xfb\x01\x08\x01\xfc\x01"
    data = b"\xa3\x06\x0d1234\xa4\x06" + b"\x0a" + bytes((len(task) & 0x7F | 0x80, len(task) >> 7)) + task + b"\x15abcd"
    rest, places = cut_fields(data, 1, 6, LEAST)
    assert places == [(data.index(b"ppp"), data.index(b"ppp") + 200)]
    inner = b"\x08\x01\xfb\x01\x08\x01\xfc\x01"
    assert rest == b"\xa3\x06\x0d1234\xa4\x06" + b"\x0a" + bytes((len(inner),)) + inner + b"\x15abcd"


def test_every_cut_and_every_damaged_byte_is_left_to_protobuf() -> None:
    orders = R.TaskOrders(cancel=[5])
    orders.task.add(number=1, task_id="t", payload=b"p" * LEAST)
    orders.task.add(number=2, payload=b"q" * LEAST, max_duration_s=2.0)
    data = orders.SerializeToString()
    damaged = [data[:end] for end in range(len(data))]
    for bit in (1, 8, 0x80):
        damaged += [data[:at] + bytes((data[at] ^ bit,)) + data[at + 1 :] for at in range(len(data))]
    for message in damaged:
        rest, places = cut_fields(message, 1, 6, LEAST)
        try:
            expected = R.TaskOrders.FromString(message)
        except Exception as error:
            with pytest.raises(type(error)):
                R.TaskOrders.FromString(rest)
            continue
        found = R.TaskOrders.FromString(rest)
        for task, place in zip(found.task, places, strict=False):
            if place is not None:
                task.payload = message[place[0] : place[1]]
        assert found == expected


def test_field_that_is_written_twice_is_left_to_protobuf() -> None:
    task = b"\x32\xc8\x01" + b"p" * 200 + b"\x32\x01q"
    data = b"\x0a" + bytes((len(task) & 0x7F | 0x80, len(task) >> 7)) + task
    assert cut_fields(data, 1, 6, LEAST) == (data, [])
    assert R.TaskOrders.FromString(data).task[0].payload == b"q"
