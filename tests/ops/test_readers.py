"""Readers where names are waited for: turns, cancelled reads, files that may not be read."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import runtime
from runtime.dtypes import DataType
from runtime.errors import Cancelled, FailedPrecondition, OutOfRange, PermissionDenied, ResourceExhausted
from runtime.ops.files import whole
from runtime.ops.files.matching import matching_files
from runtime.ops.files.whole import read_file, write_file
from runtime.ops.state.queue import Queue
from runtime.ops.state.reader import IdentityReader, Reader, TextLineReader, WholeFileReader
from runtime.ops.state.stores import FifoStore
from runtime.step.files import FileAccess
from tests.ops.waiting import WAIT_S, Answer, Steps


@pytest.fixture
def steps() -> Steps:
    return Steps()


class Names:
    """A queue of names."""

    def __init__(self, steps: Steps) -> None:
        self.steps = steps
        self.queue = Queue("FIFOQueue", "names", [DataType.STRING], [()], -1, FifoStore())

    def put(self, *names: str | Path) -> None:
        elements = [(np.array(str(name).encode(), object),) for name in names]
        answer = Answer()
        self.queue.enqueue(self.steps.new(), elements, answer)
        answer.result()


def read(reader: Reader, step: Any, names: Names, count: int = 1, up_to: bool = False) -> Answer:
    answer = Answer()
    reader.read(step, names.queue, count, answer, up_to=up_to)
    return answer


def identity() -> IdentityReader:
    return IdentityReader("IdentityReader", "r", FileAccess(None).check)


def keys(answer: Answer) -> list[bytes]:
    return [key for key, _ in answer.result()]


def test_reads_wait_for_names_each_in_its_turn(steps: Steps) -> None:
    reader, names = identity(), Names(steps)
    first, second = read(reader, steps.new(), names, 2), read(reader, steps.new(), names)
    names.put("a")
    assert first.waits and second.waits
    names.put("b", "c")
    assert (keys(first), keys(second)) == ([b"a", b"b"], [b"c"])
    assert reader.records_produced == 3


def test_a_cancelled_read_gives_the_next_one_its_turn(steps: Steps) -> None:
    reader, names, step, later = identity(), Names(steps), steps.new(), steps.new()
    first, second, third = read(reader, step, names), read(reader, later, names), read(reader, steps.new(), names)
    step.cancel(Cancelled("away"))
    with pytest.raises(Cancelled, match=r"^Dequeue operation was cancelled$"):
        first.result()
    assert second.waits
    later.cancel(Cancelled("away"))
    with pytest.raises(Cancelled):
        second.result()
    names.put("a")
    assert keys(third) == [b"a"]


def test_a_read_that_waits_for_its_turn_can_be_cancelled(steps: Steps) -> None:
    reader, names, step = identity(), Names(steps), steps.new()
    first, second = read(reader, steps.new(), names), read(reader, step, names)
    step.cancel(Cancelled("away"))
    with pytest.raises(Cancelled, match=r"^Read operation was cancelled$"):
        second.result()
    names.put("a")
    assert keys(first) == [b"a"]


def test_closing_the_queue_ends_reads(steps: Steps) -> None:
    reader, names = identity(), Names(steps)
    answers = [read(reader, steps.new(), names) for _ in range(3)]
    names.queue.close()
    for answer in answers:
        with pytest.raises(OutOfRange, match="closed and has insufficient elements"):
            answer.result()


def test_many_empty_files_and_many_waiting_reads_need_no_deep_stack(steps: Steps, tmp_path: Path) -> None:
    empty, full = tmp_path / "empty", tmp_path / "full"
    empty.write_bytes(b"")
    full.write_bytes(b"line\n" * 3000)
    names = Names(steps)
    reader = TextLineReader("TextLineReader", "r", FileAccess(None).check, 0)
    names.put(*[empty] * 3000, full)
    assert keys(read(reader, steps.new(), names)) == [f"{full}:1".encode()]
    reader.close()
    done: list[Answer] = []
    waiting = Names(steps)
    other = TextLineReader("TextLineReader", "r", FileAccess(None).check, 0)
    step = steps.new()
    step.hand_over = lambda work: threading.Thread(target=work).start()
    done += [read(other, step, waiting) for _ in range(200)]
    waiting.put(full)
    assert [keys(answer) for answer in done] == [[f"{full}:{number + 1}".encode()] for number in range(200)]
    other.close()


def test_many_threads_read_every_record_once(steps: Steps, tmp_path: Path) -> None:
    files = [tmp_path / str(number) for number in range(10)]
    for file in files:
        file.write_text("".join(f"{file.name} {line}\n" for line in range(100)))
    reader, names = TextLineReader("TextLineReader", "r", FileAccess(None).check, 0), Names(steps)
    found: list[bytes] = []
    failures: list[BaseException] = []

    def work() -> None:
        try:
            while True:
                found.extend(value for _, value in read(reader, steps.new(), names, 7, up_to=True).result())
        except OutOfRange:
            pass
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    names.put(*files)
    answer = Answer()
    names.queue.shut(steps.new(), answer, cancel_pending_enqueues=False)
    for thread in threads:
        thread.join(WAIT_S)
        assert not thread.is_alive()
    assert not failures
    assert sorted(found) == sorted(f"{file.name} {line}".encode() for file in files for line in range(100))
    assert (reader.records_produced, reader.units_completed) == (1000, 10)


def test_reset_waits_for_its_turn(steps: Steps) -> None:
    reader, names = identity(), Names(steps)
    first, reset = read(reader, steps.new(), names), Answer()
    reader.change(steps.new(), reader.reset, reset)
    assert reset.waits
    names.put("a")
    assert keys(first) == [b"a"]
    reset.result()
    assert reader.records_produced == 0


@pytest.mark.parametrize("kind", [WholeFileReader, TextLineReader])
def test_a_reader_stays_within_the_folders_that_may_be_touched(steps: Steps, tmp_path: Path, kind: Any) -> None:
    inside, outside = tmp_path / "inside", tmp_path / "outside.txt"
    inside.mkdir()
    outside.write_bytes(b"secret\n")
    (inside / "link").symlink_to(outside)
    (inside / "own").write_bytes(b"open\n")
    access = FileAccess([inside])
    reader = kind("Reader", "r", access.check, *([0] if kind is TextLineReader else []))
    names = Names(steps)
    names.put(outside, inside / "link", inside / "own")
    for _ in range(2):
        with pytest.raises(PermissionDenied):
            read(reader, steps.new(), names).result()
        reader.change(steps.new(), reader.reset, Answer())
    assert read(reader, steps.new(), names).result()[0][1].strip() == b"open"
    reader.close()


def test_patterns_show_nothing_of_other_folders(tmp_path: Path) -> None:
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    inside.mkdir()
    outside.mkdir()
    (outside / "secret").touch()
    (inside / "own").touch()
    (inside / "link").symlink_to(outside)
    access = FileAccess([inside])
    assert matching_files(f"{inside}/*", access.check) == [f"{inside}/link", f"{inside}/own"]
    assert matching_files(f"{inside}/*/*", access.check) == []
    for pattern in (f"{outside}/*", f"{tmp_path}/*", f"{inside}/../outside/*", f"{outside}/secret"):
        with pytest.raises(PermissionDenied):
            matching_files(pattern, access.check)


def test_a_file_is_read_in_every_step(tmp_path: Path) -> None:
    """A constant name makes no constant of what the file holds."""
    path = tmp_path / "file"
    graph = runtime.Graph()
    content = graph.op("ReadFile", graph.constant(str(path).encode()))
    names = graph.op("MatchingFiles", graph.constant(f"{tmp_path}/*".encode()))
    with runtime.Session(graph=graph) as session:
        seen = []
        for text in (b"first", b"second"):
            path.write_bytes(text)
            seen.append(session.run(content))
        (tmp_path / "other").touch()
        assert seen == [b"first", b"second"]
        assert len(session.run(names)) == 2


def test_a_pipe_is_no_file(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(FailedPrecondition, match="Is not a regular file"):
        read_file(str(pipe))
    reader = threading.Thread(target=lambda: write_quietly(str(pipe)))
    reader.start()
    reader.join(WAIT_S)
    assert not reader.is_alive()


def write_quietly(path: str) -> None:
    with pytest.raises(Exception, match="pipe"):
        write_file(path, b"text")


def test_a_file_that_is_too_long_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(whole, "MAX_RECORD_BYTES", 10)
    path = tmp_path / "long"
    path.write_bytes(b"x" * 11)
    with pytest.raises(ResourceExhausted, match="11 bytes"):
        read_file(str(path))
    path.write_bytes(b"x" * 10)
    assert read_file(str(path)) == b"x" * 10
