"""Content in chunks: whatever is cut, lost, damaged or held back, it arrives as it was, or an error says why not."""

from __future__ import annotations

import random
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime import wire
from runtime._ext.chunks import ChunkReader, ChunkWriter, chunk_item, copy_with_checksum, cut_with_checksum
from runtime._ext.crc32c import crc32c_portable
from runtime._ext.message_parts import MessageParts
from runtime.errors import DataLoss, Error, FailedPrecondition, InvalidArgument, ResourceExhausted

Chunk = wire.runtime_v1.Chunk


def content_of(size: int) -> bytes:
    return random.Random(size).randbytes(size)


def chunks_of(writer: ChunkWriter) -> list[bytes]:
    found = []
    while (chunk := writer.next()) is not None:
        found.append(bytes(chunk))
    return found


def checksum(message: wire.runtime_v1.Chunk, content: bytes | None = None) -> int:
    """Return what the checksum of a chunk must be, by the words of the message's definition."""
    place = b"".join(value.to_bytes(8, "little") for value in (message.item, message.sequence, message.offset))
    return crc32c_portable(place + bytes([message.is_last]) + (message.content if content is None else content))


def cut(content: bytes, chunk_bytes: int, **options: object) -> list[bytes]:
    return chunks_of(ChunkWriter(content, chunk_bytes=chunk_bytes, credit=1 << 30, **options))


def unpack(data: memoryview, raw_bytes: int) -> bytes:
    return zlib.decompressobj().decompress(data, raw_bytes + 1)


@pytest.mark.parametrize("offset", [0, 1, 7, 15])
@pytest.mark.parametrize("size", [0, 1, 15, 16, 17, 4096, 12287, 12288, 12289, 40000, 300_001])
def test_copy_and_checksum_at_any_alignment(size: int, offset: int) -> None:
    source = content_of(size)
    for shift in (0, 3):
        memory = bytearray(size + offset + shift + 8)
        to = memoryview(memory)[offset:offset + size]
        data = memoryview(b"x" * shift + source)[shift:]
        start = crc32c_portable(b"before")
        assert copy_with_checksum(to, data, start) == crc32c_portable(b"before" + source)
        assert to == source
        assert not any(memory[offset + size:]) and not any(memory[:offset])
        assert copy_with_checksum(to, data, start, portable=True) == crc32c_portable(b"before" + source)


def test_copy_refuses_another_size() -> None:
    with pytest.raises(InvalidArgument, match="to has 3 bytes, and source 4"):
        copy_with_checksum(bytearray(3), b"1234")


@given(st.binary(max_size=100_000), st.integers(1, 40_000), st.integers(0, 2**32 - 1))
def test_cut_chunks_are_the_content_and_have_its_checksum(content: bytes, chunk_bytes: int, start: int) -> None:
    chunks, crc = cut_with_checksum(memoryview(content), chunk_bytes, start)
    assert b"".join(chunks) == content and crc == crc32c_portable(content, start)
    assert all(len(chunk) == chunk_bytes for chunk in chunks[:-1]) and all(chunks)
    assert len(chunks) == -(-len(content) // chunk_bytes)


def test_chunks_have_a_size() -> None:
    with pytest.raises(InvalidArgument, match="chunk_bytes is 0; it must be at least 1"):
        cut_with_checksum(b"abc", 0)


@settings(max_examples=60, deadline=None)
@given(size=st.integers(0, 300), chunk_bytes=st.integers(1, 400), joined=st.booleans(), packed=st.booleans())
def test_content_arrives_whatever_its_chunks(size: int, chunk_bytes: int, joined: bool, packed: bool) -> None:
    content = content_of(size // 2) + b"\0" * (size - size // 2)
    writer = ChunkWriter(content, 3, chunk_bytes, compress=zlib.compress if packed else None)
    memory = bytearray(size)
    reader = ChunkReader(memory, 3, window=2, decompress=unpack if packed else None)
    writer.grant(reader.take_credit())
    while not reader.is_complete:
        chunk = writer.next(joined)
        assert chunk is not None
        assert chunk_item(bytes(chunk)) == 3
        reader.feed(bytes(chunk))
        writer.grant(reader.take_credit())
        writer.acknowledge(reader.next_offset)
    assert bytes(memory) == content
    assert writer.is_sent and writer.is_acknowledged


@pytest.mark.parametrize("joined", [False, True])
def test_chunks_are_messages_of_the_declared_form(joined: bool) -> None:
    content = content_of(50_000)
    writer = ChunkWriter(content, 2, 20_000, credit=9)
    seen = []
    while (made := writer.next(joined)) is not None:
        assert isinstance(made, bytes if joined or len(seen) == 2 else MessageParts)
        message = Chunk.FromString(bytes(made))
        assert message.item == 2 and message.sequence == len(seen) and message.offset == 20_000 * len(seen)
        assert message.crc32c == checksum(message)
        seen.append(message)
    assert [message.is_last for message in seen] == [False, False, True]
    assert b"".join(message.content for message in seen) == content


def test_large_chunks_leave_from_their_own_memory() -> None:
    content = np.arange(100_000, dtype=np.uint8)
    made = ChunkWriter(content, chunk_bytes=60_000, credit=1).next()
    assert isinstance(made, MessageParts)
    assert np.shares_memory(np.frombuffer(made.parts[1], np.uint8), content)


def test_a_reader_accepts_what_protobuf_writes() -> None:
    message = Chunk(item=1, sequence=0, offset=0, is_last=True, content=b"abc")
    message.crc32c = checksum(message)
    reader = ChunkReader(item=1, total=3)
    view = reader.feed(message.SerializeToString())
    assert view == b"abc" and reader.is_complete


def test_a_chunk_cannot_pass_for_one_of_another_item() -> None:
    (chunk,) = cut(b"0123456789", 10)
    message = Chunk.FromString(chunk)
    message.item = 1
    with pytest.raises(DataLoss, match=r"Chunk\.crc32c"):
        ChunkReader(bytearray(10), item=1).feed(message.SerializeToString())


def test_damage_of_any_byte_is_detected() -> None:
    content = content_of(40)
    chunks = cut(content, 16)
    rng = random.Random(5)
    for which, chunk in enumerate(chunks):
        for at in range(len(chunk)):
            memory = bytearray(40)
            reader = ChunkReader(memory)
            for before in chunks[:which]:
                reader.feed(before)
            damaged = bytearray(chunk)
            damaged[at] ^= 1 << rng.randrange(8)
            try:
                reader.feed(bytes(damaged))
            except Error:
                assert reader.next_sequence == which  # the good one may come in its place
                reader.feed(chunk)
            for after in chunks[which + 1:]:
                reader.feed(after)
            assert bytes(memory) == content and reader.is_complete


@pytest.mark.parametrize("length", range(36))
def test_a_cut_chunk_is_refused(length: int) -> None:
    chunk, *_ = cut(content_of(20), 20)
    assert len(chunk) > length - 10
    with pytest.raises(Error):
        ChunkReader(bytearray(20)).feed(chunk[:min(length, len(chunk) - 1)])


@settings(max_examples=60, deadline=None)
@given(order=st.permutations(range(5)))
def test_reordering_is_refused_and_mended(order: list[int]) -> None:
    content = content_of(50)
    chunks = cut(content, 10)
    memory = bytearray(50)
    reader = ChunkReader(memory)
    for which in order:
        if which == reader.next_sequence:
            reader.feed(chunks[which])
        else:
            with pytest.raises(DataLoss, match=r"Chunk\.sequence"):
                reader.feed(chunks[which])
    for which in range(reader.next_sequence, 5):
        reader.feed(chunks[which])
    assert bytes(memory) == content


def test_duplicates_are_refused() -> None:
    chunks = cut(content_of(50), 10)
    reader = ChunkReader(bytearray(50), name="tensor 'w'")
    reader.feed(chunks[0])
    with pytest.raises(DataLoss, match=r"Chunk\.sequence 0 of tensor 'w' comes again; 1 is next"):
        reader.feed(chunks[0])
    for chunk in chunks[1:]:
        reader.feed(chunk)
    with pytest.raises(DataLoss, match="behind the last chunk, 4"):
        reader.feed(chunks[4])


@pytest.mark.parametrize(("fields", "text"), [
    ({"item": 7}, "Chunk.item is 7; the content is item 0"),
    ({"offset": 3}, "Chunk.offset of the content is 3 in chunk 0; 0 is next"),
    ({"is_last": True}, "Chunk.is_last of the content is set in chunk 0, and 4 of 10 bytes have come"),
    ({"content": b""}, "Chunk.content of the content is empty in chunk 0"),
    ({"content": b"x" * 11}, "has 11 bytes in chunk 0; 10 of 10 are missing"),
    ({"content": b"x" * 10}, "Chunk.is_last of the content is not set in chunk 0"),
    ({"content": b"x" * 33}, "has 33 bytes in chunk 0; at most 32 are allowed"),
    ({"raw_bytes": 9}, "no compression was agreed on"),
    ({"raw_bytes": 1 << 63}, "at most 32 are allowed"),
    ({"crc32c": 1}, "Chunk.crc32c of the content is 0x00000001 in chunk 0"),
])
def test_errors_name_field_and_value(fields: dict[str, object], text: str) -> None:
    plain = dict(content=b"1234")
    message = Chunk(**{**plain, **fields})
    if "crc32c" not in fields:
        message.crc32c = checksum(message)
    with pytest.raises(Error) as caught:
        ChunkReader(bytearray(10), max_chunk_bytes=32).feed(message.SerializeToString())
    assert text in caught.value.message


def test_unpacking_to_another_size_is_refused() -> None:
    for raw_bytes in (9, 11):
        message = Chunk(content=zlib.compress(b"0" * 10), raw_bytes=raw_bytes)
        message.crc32c = checksum(message, b"0" * 10)
        with pytest.raises(DataLoss, match=f"Chunk.raw_bytes is {raw_bytes}"):
            ChunkReader(decompress=unpack).feed(message.SerializeToString())


def test_a_slow_reader_stops_the_writer() -> None:
    writer = ChunkWriter(content_of(1000), chunk_bytes=10)
    reader = ChunkReader(total=1000, window=4)
    assert writer.next() is None
    writer.grant(reader.take_credit())
    sent = chunks_of(writer)
    assert len(sent) == 4 and not writer.has_next
    for chunk in sent:
        reader.feed(chunk)
        assert reader.take_credit() == 0  # nobody has used what came
    reader.used()
    assert reader.take_credit() == 0  # less than half of the window
    reader.used()
    writer.grant(reader.take_credit())
    assert len(chunks_of(writer)) == 2
    reader.used(1)
    assert reader.take_credit(at_once=True) == 1


def test_a_writer_without_credit_is_refused() -> None:
    chunks = cut(content_of(100), 10)
    reader = ChunkReader(bytearray(100), window=2)
    reader.take_credit()
    reader.feed(chunks[0])
    reader.feed(chunks[1])
    with pytest.raises(InvalidArgument, match="sent without credit: the writer is more than 2 chunks ahead"):
        reader.feed(chunks[2])


@settings(max_examples=60, deadline=None)
@given(size=st.integers(0, 100), chunk_bytes=st.integers(1, 30), breaks=st.lists(st.integers(0, 5), max_size=20),
       lost=st.integers(0, 3))
def test_content_arrives_over_streams_that_break(size: int, chunk_bytes: int, breaks: list[int], lost: int) -> None:
    content = content_of(size)
    writer = ChunkWriter(content, chunk_bytes=chunk_bytes)
    memory = bytearray(size)
    reader = ChunkReader(memory, window=4)
    for length in [*breaks, 1 << 20]:
        reader.restart()
        writer.resume(reader.next_sequence, reader.next_offset, reader.take_credit(at_once=True), reader.is_complete)
        on_the_way: list[bytes] = []
        for _ in range(length):
            if reader.is_complete:
                break
            if (chunk := writer.next()) is not None:
                on_the_way.append(bytes(chunk))
            if len(on_the_way) > lost or chunk is None:  # what is still on its way when the stream breaks is lost
                reader.feed(on_the_way.pop(0))
                writer.grant(reader.take_credit())
                writer.acknowledge(reader.next_offset)
    assert bytes(memory) == content and reader.is_complete
    assert writer.is_sent


def test_resuming_is_checked() -> None:
    writer = ChunkWriter(content_of(100), chunk_bytes=10, credit=5)
    chunks_of(writer)
    writer.acknowledge(30)
    with pytest.raises(InvalidArgument, match="go on at byte 60"):
        writer.resume(6, 60, 1)
    with pytest.raises(InvalidArgument, match="go on at byte 20; it has acknowledged 30"):
        writer.resume(2, 20, 1)
    with pytest.raises(InvalidArgument, match="51 bytes were acknowledged; 50 were sent"):
        writer.acknowledge(51)
    with pytest.raises(InvalidArgument, match="credit of -1"):
        writer.grant(-1)


def test_pieces_of_unknown_number_arrive_in_order() -> None:
    writer = ChunkWriter(chunk_bytes=4, limit_bytes=12)
    reader = ChunkReader(window=100)
    writer.grant(reader.take_credit())
    assert writer.next() is None and not writer.has_next
    found = b""
    for piece in (b"first", b"", b"2nd"):
        writer.append(piece)
        for chunk in chunks_of(writer):
            found += bytes(reader.feed(chunk))
    assert not reader.is_complete
    assert writer.room == 4
    with pytest.raises(ResourceExhausted, match="a piece of 5 bytes does not fit: 8 bytes wait for the reader"):
        writer.append(b"12345")
    writer.acknowledge(reader.next_offset)
    assert writer.room == 12
    writer.finish()
    (end,) = chunks_of(writer)
    assert reader.feed(end) == b"" and reader.is_complete
    assert found == b"first2nd"
    with pytest.raises(FailedPrecondition):
        writer.append(b"late")


def test_an_unfinished_content_is_resumed_before_its_end() -> None:
    writer = ChunkWriter(chunk_bytes=10, credit=5)
    reader = ChunkReader()
    writer.append(b"0123456789")
    reader.feed(chunks_of(writer)[0])
    writer.finish()
    writer.resume(reader.next_sequence, reader.next_offset, 5, reader.is_complete)
    (end,) = chunks_of(writer)
    reader.feed(end)
    assert reader.is_complete and reader.next_offset == 10


@pytest.mark.parametrize("bad", [0, -1, (64 << 20) + 1])
def test_chunk_size_is_checked(bad: int) -> None:
    with pytest.raises(InvalidArgument, match=f"chunk_bytes is {bad}"):
        ChunkWriter(b"", chunk_bytes=bad)


def test_memory_is_held_only_while_it_is_needed() -> None:
    memory = bytearray(100)
    reader = ChunkReader(memory)
    with pytest.raises(BufferError):
        memory.append(1)
    del reader
    memory.append(1)
    content = bytearray(b"x" * 20)
    writer = ChunkWriter(content, chunk_bytes=20, credit=1)
    with pytest.raises(BufferError):
        content.append(1)
    chunk = writer.next()
    writer.acknowledge(20)
    del chunk
    content.append(1)
