"""Both ends of a parcel, with a wire between them that loses, damages, repeats and reorders."""

from __future__ import annotations

import random
from collections import deque

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from runtime import wire
from runtime.errors import (
    DataLoss,
    Error,
    FailedPrecondition,
    InvalidArgument,
    ResourceExhausted,
    Unavailable,
    Unimplemented,
)
from runtime.transport import compression
from runtime.transport.parcel import COMPLETE, FIRST_WINDOW_BYTES, MAX_WINDOW_BYTES, Receiver, Sender, sealed
from tests.transport.samples import any_array, same

Chunk = wire.runtime_v1.Chunk
LIMIT = 1 << 32


class Broken(Exception):
    pass


def run(sender: Sender, receiver: Receiver, trouble=None, max_streams: int = 10_000) -> int:
    """Carry messages until the parcel is there; `trouble` says what becomes of one. Returns the streams."""
    may_lose = trouble is not None
    if trouble is None:
        def trouble(message: bytes) -> list[bytes]:
            return [message]

    for streams in range(1, max_streams + 1):
        receiver.opening()
        try:
            answers: deque[bytes] = deque()
            for message in [sender.opening()]:
                answers.extend(filter(None, [receiver.take(item) for item in trouble(message)]))
            while not sender.is_complete:
                message = sender.next(joined=True)
                if message is None:
                    assert answers or may_lose, "both ends wait for each other"
                    if not answers:
                        raise Broken  # what was lost does not come any more, which a stream tells by its end
                    for item in trouble(answers.popleft()):
                        sender.take(item)
                    continue
                for item in trouble(bytes(message)):
                    answer = receiver.take(item)
                    if answer is not None:
                        answers.append(answer)
            return streams
        except (Broken, Error):
            if receiver.is_complete and not sender.is_complete:
                sender.take(COMPLETE)  # what a server says that has seen it arrive
                return streams
    raise AssertionError(f"not there after {max_streams} streams")


def pair(items, chunk_bytes: int = 1 << 20, **options) -> tuple[Sender, Receiver]:
    share = options.pop("share", False)
    return (Sender("k", items, may_share=share, chunk_bytes=chunk_bytes, **options),
            Receiver("k", LIMIT, may_share=share))


def content_of(size: int) -> np.ndarray:
    return np.frombuffer(random.Random(size).randbytes(size), np.uint8)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(found=st.lists(any_array(), max_size=5), chunk_bytes=st.integers(1, 60),
       compress=st.sampled_from([None, "zlib", "zstd"]))
def test_any_arrays_arrive_in_chunks_of_any_size(found: list[np.ndarray], chunk_bytes: int,
                                                 compress: str | None) -> None:
    items = {f"item {index}": array for index, array in enumerate(found)}
    sender, receiver = pair(items, chunk_bytes, compress=compress)
    assert run(sender, receiver) == 1
    result = receiver.result()
    assert list(result) == list(items)
    assert all(same(result[name], array) for name, array in items.items())
    assert receiver.done_bytes == sum(array.nbytes for array in found)


@pytest.mark.parametrize("break_at", range(16))
def test_a_stream_may_break_at_every_message(break_at: int) -> None:
    items = {"a": content_of(100), "b": content_of(35), "empty": np.empty((0, 3))}
    sender, receiver = pair(items, chunk_bytes=10)
    passed = 0

    def trouble(message: bytes) -> list[bytes]:
        nonlocal passed
        passed += 1
        if passed - 1 == break_at:
            raise Broken
        return [message]

    assert run(sender, receiver, trouble) == (2 if break_at < 16 else 1)
    assert all(same(receiver.result()[name], array) for name, array in items.items())


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 1 << 30), size=st.integers(0, 400), chunk_bytes=st.integers(1, 50))
@example(seed=109, size=60, chunk_bytes=1)  # a chunk of one stream arrives on the next, ahead of its sender
def test_parcels_survive_a_wire_that_does_everything_wrong(seed: int, size: int, chunk_bytes: int) -> None:
    rng = random.Random(seed)
    items = {"a": content_of(size), "b": content_of(size // 3), "c": np.float32(1.5)}
    sender, receiver = pair(items, chunk_bytes)
    late: list[bytes] = []

    def trouble(message: bytes) -> list[bytes]:
        fate = rng.random()
        if fate < 0.02:
            late.clear()
            raise Broken
        if fate < 0.04:
            damaged = bytearray(message)
            damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
            return [bytes(damaged)]
        if fate < 0.06:
            return [message, message]
        if fate < 0.08:
            late.append(message)
            return []
        passed = [message, *late]
        late.clear()
        return passed

    run(sender, receiver, trouble)
    result = receiver.result()
    assert all(same(result[name], np.asarray(array)) for name, array in items.items())


def test_every_damaged_byte_is_detected() -> None:
    items = {"a": content_of(30), "b": content_of(30)[::-1], "c": np.array([b"x"], object)}
    sender, receiver = pair(items)
    messages: list[tuple[str, bytes]] = []
    receiver.opening()

    def note(to: str, message: bytes) -> bytes:
        messages.append((to, message))
        return message

    sender.take(note("sender", receiver.take(note("receiver", sender.opening()))))
    while (chunk := sender.next(True)) is not None:
        answer = receiver.take(note("receiver", bytes(chunk)))
        if answer is not None:
            sender.take(note("sender", answer))
    assert sender.is_complete and len(messages) == 6
    rng = random.Random(1)
    for which, (to, message) in enumerate(messages):
        for at in range(len(message)):
            again, other = pair(items)
            again.parcel = sender.parcel
            other.opening()
            again.opening()
            for before_to, before in messages[:which]:
                if before_to == "sender":
                    again.take(before)
                    while again.next(True) is not None:
                        pass
                else:
                    other.take(before)
            damaged = bytearray(message)
            damaged[at] ^= 1 << rng.randrange(8)
            try:
                (again if to == "sender" else other).take(bytes(damaged))
            except Error:
                continue
            # The one change that goes unnoticed is to write the same in another way.
            assert to == "receiver" and Chunk.FromString(bytes(damaged)) == Chunk.FromString(message)


def test_small_items_pass_the_large() -> None:
    items = {"large": content_of(1_000_000), **{f"small {index}": content_of(10) for index in range(3)}}
    sender, receiver = pair(items, chunk_bytes=1000)
    receiver.opening()
    sender.take(receiver.take(sender.opening()))
    first = [wire.runtime_v1.Chunk.FromString(bytes(sender.next(True))).item for _ in range(6)]
    assert first == [0, 1, 2, 3, 0, 0]


def test_credit_is_small_for_those_who_do_not_read_and_grows_for_those_who_do() -> None:
    sender, receiver = pair({"a": np.zeros(64 << 20, np.uint8)}, chunk_bytes=1 << 20)
    receiver.opening()
    standing = receiver.take(sender.opening())
    sender.take(standing)
    ahead: list[bytes] = []
    while (message := sender.next(True)) is not None:
        ahead.append(bytes(message))
    assert sum(map(len, ahead)) < FIRST_WINDOW_BYTES + 1000
    most = 0
    on_the_way = 0
    pending: deque[bytes] = deque(ahead)
    on_the_way = sum(map(len, ahead))
    while not sender.is_complete:
        while (message := sender.next(True)) is not None:
            pending.append(bytes(message))
            on_the_way += len(message)
        most = max(most, on_the_way)
        message = pending.popleft()
        on_the_way -= len(message)
        answer = receiver.take(message)
        if answer is not None:
            sender.take(answer)
    assert MAX_WINDOW_BYTES // 2 < most <= MAX_WINDOW_BYTES + 10_000


def test_a_sender_that_ignores_its_credit_is_refused() -> None:
    sender, receiver = pair({"a": np.zeros(1 << 20, np.uint8)})
    receiver.opening()
    sender.take(receiver.take(sender.opening()))
    sender.take(sealed(wire.runtime_v1.Standing(credit_bytes=1 << 20)))
    with pytest.raises(InvalidArgument, match="'a' goes on without credit"):
        receiver.take(bytes(sender.next(True)))


def test_progress_is_told_at_both_ends() -> None:
    sent: list[tuple[int, int]] = []
    received: list[tuple[int, int]] = []
    sender = Sender("k", {"a": content_of(5000), "b": content_of(7)}, may_share=False, chunk_bytes=100,
                    progress=lambda *now: sent.append(now))
    receiver = Receiver("k", LIMIT, may_share=False, progress=lambda *now: received.append(now))
    run(sender, receiver)
    assert received[-1] == sent[-1] == (5007, 5007)
    assert [done for done, _ in received] == sorted(done for done, _ in received)


def test_within_a_process_an_array_is_handed_over_itself() -> None:
    array = content_of(100)
    sender, receiver = pair({"a": array}, share=True)
    run(sender, receiver)
    assert receiver.result()["a"] is array


def test_too_large_a_parcel_is_refused_before_memory_is_taken() -> None:
    sender = Sender("k", {"small": content_of(5), "large": np.zeros(1000)}, may_share=False)
    receiver = Receiver("k", 8004, may_share=False)
    receiver.opening()
    with pytest.raises(ResourceExhausted, match="the parcel 'k' holds 8005 bytes, and 8004 are allowed; the largest "
                                                "item is "
                                                "'large' with 8000"):
        receiver.take(sender.opening())


def manifest(**fields) -> bytes:
    plain = dict(key="k", parcel=5, item=[wire.runtime_v1.Item(name="a", dtype="<f4", shape=[2], nbytes=8)])
    return sealed(wire.runtime_v1.Chunk(manifest=wire.runtime_v1.Manifest(**{**plain, **fields})))


@pytest.mark.parametrize(("message", "text"), [
    (b"", "Chunk.crc32c is 0x00000000 and does not end the message"),
    (sealed(wire.runtime_v1.Chunk(item=3)), "the first Chunk has no manifest"),
    (b"\xff", "this is no runtime.v1.Chunk message"),
    (manifest(parcel=0), "Manifest.parcel is 0"),
    (manifest(compression=7), "Manifest.compression is 7"),
    (manifest(item=[wire.runtime_v1.Item(name="a", dtype="|u1")] * 2), "Item.name 'a' is there twice|Item.nbytes"),
    (manifest(item=[wire.runtime_v1.Item(name="a", dtype="<f4", shape=[1 << 40], nbytes=4 << 40)]), "are allowed"),
])
def test_manifests_are_checked(message: bytes, text: str) -> None:
    receiver = Receiver("k", LIMIT)
    receiver.opening()
    with pytest.raises(Error, match=text):
        receiver.take(message)


def test_another_parcel_does_not_continue_this_one() -> None:
    receiver = Receiver("k", LIMIT)
    receiver.opening()
    receiver.take(manifest())
    receiver.opening()
    with pytest.raises(FailedPrecondition, match="Manifest.parcel is 6; parcel 5 has begun to come"):
        receiver.take(manifest(parcel=6))


@pytest.mark.parametrize(("fields", "text"), [
    (dict(item=4), "Chunk.item is 4; the parcel has 1"),
    (dict(item=0, lease=wire.runtime_v1.Lease(lease=3, nbytes=8)), "Chunk.lease of 'a' was not asked for"),
    (dict(item=0, lease=wire.runtime_v1.Lease(lease=3, nbytes=9)), "Lease.nbytes of 'a' is 9; it has 8"),
    (dict(item=9, lease=wire.runtime_v1.Lease(lease=3, nbytes=9)), "Chunk.item is 9"),
])
def test_chunks_are_checked(fields: dict[str, object], text: str) -> None:
    receiver = Receiver("k", LIMIT)
    receiver.opening()
    receiver.take(manifest())
    with pytest.raises(InvalidArgument, match=text):
        receiver.take(sealed(wire.runtime_v1.Chunk(**fields)))


@pytest.mark.parametrize(("fields", "text"), [
    (dict(item=1), "ItemStanding.item is 1; the parcel has 1"),
    (dict(item=0, road=9), "ItemStanding.road is 9"),
    (dict(item=0, next_offset=3), "wants to go on at byte 3"),
])
def test_standings_are_checked(fields: dict[str, int], text: str) -> None:
    sender = Sender("k", {"a": np.zeros(2)})
    sender.opening()
    standing = wire.runtime_v1.Standing(item=[wire.runtime_v1.ItemStanding(**fields)])
    with pytest.raises(InvalidArgument, match=text):
        sender.take(sealed(standing))


@pytest.mark.parametrize("key", ["", "x" * 1025])
def test_keys_are_checked(key: str) -> None:
    with pytest.raises(InvalidArgument, match=f"key has {len(key)} characters"):
        Sender(key, {})


def test_an_unknown_compression_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="compression is 'lzo'; it may be None, 'zlib' or 'zstd'"):
        Sender("k", {}, compress="lzo")


@pytest.mark.parametrize("name", ["zlib", "zstd"])
def test_compression_makes_less_of_what_repeats(name: str) -> None:
    items = {"x": np.tile(np.arange(100.0), 1000)}
    sizes = {}
    for compress in (None, name):
        sender, receiver = pair(items, compress=compress)
        passed: list[int] = []

        def count(message: bytes, passed: list[int] = passed) -> list[bytes]:
            passed.append(len(message))
            return [message]

        run(sender, receiver, count)
        assert (receiver.result()["x"] == items["x"]).all()
        sizes[compress] = sum(passed)
    assert sizes[name] * 10 < sizes[None]


@pytest.mark.parametrize("name", ["zlib", "zstd"])
def test_compressed_content_is_not_trusted(name: str) -> None:
    number = compression.number_of(name)
    compress, unpack = compression.compressor(number), compression.decompressor(number)
    assert compress is not None and unpack is not None
    packed = compress(memoryview(bytes(100_000)))
    assert unpack(memoryview(packed), 100_000) == bytes(100_000)
    for damaged, raw_bytes in ((packed, 1000), (packed, 200_000), (packed[:-4], 100_000), (b"", 5), (b"x" * 50, 5)):
        try:
            found = unpack(memoryview(damaged), raw_bytes)
        except DataLoss:
            continue
        assert len(found) != raw_bytes  # for the reader of chunks to refuse


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "zstandard", None)
    with pytest.raises(Unimplemented, match=r"pip install 'tensor-runtime\[zstd\]'"):
        Sender("k", {"a": np.zeros(1)}, compress="zstd")


def test_a_result_is_there_when_everything_is() -> None:
    receiver = Receiver("k", LIMIT)
    receiver.opening()
    receiver.take(manifest())
    with pytest.raises(FailedPrecondition, match="1 of 1 items of the parcel 'k' have not come"):
        receiver.result()


def test_an_unreachable_lender_makes_room_for_the_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: object) -> None:
        raise Unavailable("another network")

    monkeypatch.setattr("runtime.transport.parcel.claim", unreachable)
    monkeypatch.setattr("runtime.transport.place.Place.is_same_process", lambda *_: False)
    items = {"a": content_of(1 << 20), "b": content_of(1 << 19)}
    sender, receiver = pair(items, share=True)
    assert run(sender, receiver) == 1
    assert all(same(receiver.result()[name], array) for name, array in items.items())
