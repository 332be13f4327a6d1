"""Readers: records of files whose names come from a queue.

A reader serves one operation at a time, in order of arrival. None of them waits in a thread: neither for its turn nor
for the next name.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from runtime._ext.errors import DataLoss, Error, InvalidArgument, OutOfRange, Unimplemented
from runtime.checkpoint.fields import bytes_field, read_fields, varint_field
from runtime.dtypes import DataType
from runtime.ops.files.records import FixedLengthRecords, RecordReader, TextLines, TFRecords
from runtime.ops.files.whole import read_file
from runtime.ops.state.waiting import Done, Waiting, call_all

if TYPE_CHECKING:
    from runtime._ext.executor import StepContext
    from runtime.ops.state.queue import Queue

__all__ = ["FixedLengthReader", "IdentityReader", "Reader", "RecordFileReader", "TextLineReader", "WholeFileReader"]

Record = tuple[bytes, bytes]
_CANCELLED = "Read operation was cancelled"


class Reader:
    """What all readers have in common; safe from several threads.

    Parameters
    ----------
    kind, name : str
        For messages.
    allowed : callable
        Returns a path that may be touched, as text, and raises for others.

    Attributes
    ----------
    records_produced, units_completed : int
        Since the reader was made or reset.
    """

    keeps_state = False
    has_one_record = False

    def __init__(self, kind: str, name: str, allowed: Callable[[str], str]) -> None:
        self.kind = kind
        self.name = name
        self.records_produced = 0
        self.units_completed = 0
        self._units_started = 0
        self._work = b""
        self._allowed = allowed
        self._lock = threading.Lock()
        self._turns = Waiting(self._lock)
        self._busy = False
        self._is_dropped = False

    def __repr__(self) -> str:
        return f"<{self.kind} {self.name} after {self.records_produced} records>"

    # What the kinds define

    def _open(self, path: str) -> None:
        """Begin with a file, or whatever the name means."""

    def _next(self) -> Record | None:
        """Return key and value of the next record, None at the end."""
        raise NotImplementedError

    def _finish(self) -> None:
        """Let go of the file."""

    # Operations

    def read(self, step: StepContext, queue: Queue, count: int, done: Done, *, up_to: bool) -> None:
        """Read records; ``done([(key, value), ...], None)``.

        Parameters
        ----------
        queue : Queue
            Names of files, one in an element.
        up_to : bool
            Whether the end of a file ends the call as soon as there is any record; else exactly `count` are read.

        Notes
        -----
        OutOfRange and Cancelled come from the queue; what the file system says from the file.
        """
        records: list[Record] = []

        def proceed() -> None:
            """Read until there are enough records, or wait for a name and come back."""
            try:
                while len(records) < count:
                    if self.units_completed >= self._units_started and not self._next_unit(step, queue, go_on):
                        return
                    record = self._next()
                    if record is not None:
                        records.append(record)
                        self.records_produced += 1
                    if record is None or self.has_one_record:
                        self._finish()
                        self.units_completed = self._units_started
                        if up_to and records:
                            break
            except Exception as error:
                leave(error)
                return
            leave(None)

        def leave(error: BaseException | None) -> None:
            self._leave()
            done(None if error is not None else records, error)

        def go_on(elements: Any, error: BaseException | None) -> None:
            """Go on after a wait for a name."""
            try:
                self._begin_unit(elements, error)
            except Exception as problem:
                leave(problem)
                return
            proceed()

        self._take_turn(step, proceed, lambda error: done(None, error))

    def change(self, step: StepContext, action: Callable[[], Any], done: Done) -> None:
        """Call `action` between two reads; ``done(its result, None)``."""

        def work() -> None:
            try:
                result = action()
            except Exception as error:
                self._leave()
                done(None, error)
                return
            self._leave()
            done(result, None)

        self._take_turn(step, work, lambda error: done(None, error))

    def reset(self) -> None:
        """Begin anew, with nothing read. Within `change`."""
        self._finish()
        self._work = b""
        self._units_started = self.units_completed = self.records_produced = 0

    def state(self) -> bytes:
        """Return the position as bytes. Within `change`.

        Raises
        ------
        Unimplemented
            If readers of this kind cannot tell it.
        """
        if not self.keeps_state:
            raise Unimplemented("Reader SerializeState")
        numbers = (self._units_started, self.units_completed, self.records_produced)
        state = b"".join(varint_field(number, value) for number, value in enumerate(numbers, 1))
        return state + (bytes_field(4, self._work) if self._work else b"")

    def restore(self, state: bytes) -> None:
        """Go to a position that `state` has told. Within `change`.

        Raises
        ------
        Unimplemented
            If readers of this kind have none.
        InvalidArgument
            If the bytes are no position.
        """
        if not self.keeps_state:
            raise Unimplemented("Reader RestoreState")
        unparsed = f"Could not parse state for {self.kind} '{self.name}': {state.decode('latin-1')!r}"
        fields: dict[int, Any] = {1: 0, 2: 0, 3: 0, 4: b""}
        try:
            for number, value in read_fields(state):
                if number in fields:
                    if isinstance(value, int) != isinstance(fields[number], int):
                        raise InvalidArgument(unparsed)
                    fields[number] = value
        except DataLoss:
            raise InvalidArgument(unparsed) from None
        started, finished, produced = (fields[number] - (1 << 64) if fields[number] >> 63 else fields[number]
                                       for number in (1, 2, 3))
        if min(started, finished, produced) < 0:
            raise InvalidArgument(f"Unexpected negative value when restoring in {self.kind} '{self.name}': "
                                  f"{started}, {finished}, {produced}")
        if started > finished:  # only readers that have no unit under way between two reads keep a state
            raise InvalidArgument(f"Inconsistent work started vs. finished when restoring in {self.kind} "
                                  f"'{self.name}': {started}, {finished}")
        self._finish()
        self._units_started = self.units_completed = finished
        self.records_produced = produced
        self._work = bytes(fields[4])

    def close(self) -> None:
        """Let go of the file, after the read that is under way; its step ends it when it waits."""
        with self._lock:
            self._is_dropped = True
            if not self._busy:
                self._finish()

    # How an operation gets its turn and its files

    def _take_turn(self, step: StepContext, work: Callable[[], None],
                   failed: Callable[[BaseException], None]) -> None:
        at_once = True

        def attempt() -> tuple[None, None] | None:
            if self._busy:
                return None
            self._busy = True
            return None, None

        def begin(_: Any, error: BaseException | None) -> None:
            if error is not None:
                failed(error)
            elif at_once:
                work()
            else:  # in the thread that has just finished its own turn
                _elsewhere(step, work)

        self._turns.submit(step, attempt, begin, _CANCELLED, lambda: f"its turn with {self!r}")
        at_once = False

    def _leave(self) -> None:
        with self._lock:
            self._busy = False
            if self._is_dropped:
                self._finish()
            completions = self._turns.drive()
        call_all(completions)

    def _next_unit(self, step: StepContext, queue: Queue, go_on: Done) -> bool:
        """Take the next name from the queue and begin with it.

        Returns
        -------
        bool
            False when there was none yet: then ``go_on(elements, error)`` follows, in another thread.
        """
        if len(queue.component_types) != 1:
            raise InvalidArgument("Expected single component queue")
        if queue.component_types[0] is not DataType.STRING:
            raise InvalidArgument("Expected queue with single string component")
        lock = threading.Lock()
        answers: list[tuple[Any, BaseException | None]] = []
        waits = False

        def dequeued(elements: Any, error: BaseException | None) -> None:
            with lock:
                if not waits:
                    answers.append((elements, error))
                    return
            # The thread that has put the name there has its own work to do.
            _elsewhere(step, lambda: go_on(elements, error))

        queue.dequeue(step, 1, dequeued)
        with lock:
            waits = not answers
        if answers:
            self._begin_unit(*answers[0])
        return bool(answers)

    def _begin_unit(self, elements: Any, error: BaseException | None) -> None:
        """Begin with the name that was dequeued; raise what went wrong."""
        if error is not None:
            raise error
        self._work = _name(elements[0])
        self._open_work()
        self._units_started += 1

    def _open_work(self) -> None:
        self._open(os.fsdecode(self._work))


def _elsewhere(step: StepContext, work: Callable[[], None]) -> None:
    if step.hand_over is not None:
        step.hand_over(work)
    else:
        work()


def _name(element: Sequence[Any]) -> bytes:
    if element[0].size != 1:
        raise InvalidArgument("Expected to dequeue a one-element string tensor")
    return bytes(element[0].reshape(-1)[0])


class IdentityReader(Reader):
    """Gives the names themselves."""

    keeps_state = True
    has_one_record = True

    def _next(self) -> Record | None:
        return self._work, self._work


class WholeFileReader(IdentityReader):
    """Gives whole files."""

    def _next(self) -> Record | None:
        return self._work, read_file(self._allowed(os.fsdecode(self._work)))


class _FileReader(Reader):
    """Gives the records of a file, one after the other."""

    def __init__(self, kind: str, name: str, allowed: Callable[[str], str]) -> None:
        super().__init__(kind, name, allowed)
        self._source: RecordReader | None = None
        self._damage: Error | None = None

    def _begin(self, source: RecordReader) -> None:
        self._source, self._damage = source, None

    def _record(self) -> bytes | None:
        """Return the next record; what is damaged stays so until the reader is reset."""
        assert self._source is not None
        if self._damage is not None:
            raise type(self._damage)(self._damage.message)
        try:
            return self._source.read()
        except Error as error:
            self._damage = error
            raise

    def _finish(self) -> None:
        source, self._source = self._source, None
        if source is not None:
            source.close()


class TextLineReader(_FileReader):
    """Gives lines; their keys are the name and the number of the line, from 1.

    Parameters
    ----------
    skip_header_lines : int
        Of every file.
    """

    def __init__(self, kind: str, name: str, allowed: Callable[[str], str], skip_header_lines: int) -> None:
        super().__init__(kind, name, allowed)
        self._skip = skip_header_lines
        self._lines: TextLines | None = None

    def _open(self, path: str) -> None:
        self._lines = TextLines(self._allowed(path))
        self._begin(self._lines)
        for _ in range(self._skip):
            if not self._lines.skip():
                break

    def _next(self) -> Record | None:
        assert self._lines is not None
        line = self._record()
        return None if line is None else (b"%s:%d" % (self._work, self._lines.lines), line)


class RecordFileReader(_FileReader):
    """Gives records of TFRecord files; their keys are the name and where the record begins.

    Parameters
    ----------
    compression : str
    """

    def __init__(self, kind: str, name: str, allowed: Callable[[str], str], compression: str) -> None:
        super().__init__(kind, name, allowed)
        self._compression = compression
        self._records: TFRecords | None = None

    def _open(self, path: str) -> None:
        self._records = TFRecords(self._allowed(path), self._compression)
        self._begin(self._records)

    def _next(self) -> Record | None:
        assert self._records is not None
        start = self._records.position
        record = self._record()
        return None if record is None else (b"%s:%d" % (self._work, start), record)


class FixedLengthReader(_FileReader):
    """Gives records of one length; their keys are the name and the number of the record, from 0.

    Parameters
    ----------
    record_bytes, header_bytes, footer_bytes, hop_bytes : int
    compression : str
    """

    def __init__(self, kind: str, name: str, allowed: Callable[[str], str], *, record_bytes: int, header_bytes: int,
                 footer_bytes: int, hop_bytes: int, compression: str) -> None:
        super().__init__(kind, name, allowed)
        self._layout = (record_bytes, header_bytes, footer_bytes, hop_bytes, compression)
        self._header_bytes = header_bytes
        self._number = 0

    def _open(self, path: str) -> None:
        self._number = 0
        source = FixedLengthRecords(self._allowed(path), *self._layout, exact=False)
        if source.position < self._header_bytes:
            source.close()
            raise OutOfRange("reached end of file")
        self._begin(source)

    def _next(self) -> Record | None:
        record = self._record()
        if record is None:
            return None
        self._number += 1
        return b"%s:%d" % (self._work, self._number - 1), record
