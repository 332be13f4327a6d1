"""Records of the tail: single tasks that were made, and that were completed."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator

from runtime.errors import DataLoss

__all__ = ["End", "Made", "ended_bytes", "made_bytes", "read_changes"]

_MADE, _ENDED = 1, 2
# The kind; number, session, options, priority, retries, place, created, submitted; bytes of id, key and payload.
_MADE_HEAD = struct.Struct("<BQQQIIQddIII")
# The kind; number, started, ended; bytes of the result.
_ENDED_HEAD = struct.Struct("<BQddI")


class End:
    """The completion of a task: dates in seconds since 1970, and the value of its result, None before that is there."""

    __slots__ = ("data", "ended_s", "number", "started_s")

    def __init__(self, number: int, started_s: float, ended_s: float, data: bytes | None = None) -> None:
        self.number = number
        self.started_s = started_s
        self.ended_s = ended_s
        self.data = data


class Made:
    """A task that is SUBMITTED, or was completed since, with its specification and its only result.

    Attributes
    ----------
    number, session, options, priority, max_retries, place, created_s, submitted_s, id
        Of the task, as `runtime.tasks.model.TaskRow` and `SpecRow` say.
    key : str or None
        Of its result; None before that is inserted.
    payload : bytes or None
        Of its specification; None before that is inserted.
    end : End or None
        How it was completed.
    """

    __slots__ = (
        "created_s", "end", "id", "key", "max_retries", "number", "options", "payload", "place", "priority", "session",
        "submitted_s",
    )  # fmt: skip

    def __init__(
        self, number: int, session: int, priority: int, max_retries: int, place: int, created_s: float,
        submitted_s: float, id: str,
    ) -> None:
        self.number = number
        self.session = session
        self.priority = priority
        self.max_retries = max_retries
        self.place = place
        self.created_s = created_s
        self.submitted_s = submitted_s
        self.id = id
        self.options = 0
        self.key: str | None = None
        self.payload: bytes | None = None
        self.end: End | None = None


def made_bytes(made: Made) -> bytes:
    """Return what a record has of a task that was made, with its result and specification."""
    assert made.key is not None and made.payload is not None
    id, key, payload = made.id.encode(), made.key.encode(), made.payload
    head = _MADE_HEAD.pack(
        _MADE, made.number, made.session, made.options, made.priority, made.max_retries, made.place, made.created_s,
        made.submitted_s, len(id), len(key), len(payload),
    )  # fmt: skip
    return b"".join((head, id, key, payload))


def ended_bytes(end: End) -> bytes:
    """Return what a record has of a task that was completed."""
    data = end.data
    assert data is not None
    return _ENDED_HEAD.pack(_ENDED, end.number, end.started_s, end.ended_s, len(data)) + data


def read_changes(records: Iterable[bytes]) -> Iterator[Made | End]:
    """Yield what records say, in order.

    Raises
    ------
    DataLoss
        A record is of no kind that this version knows.
    """
    for record in records:
        at = 0
        while at < len(record):
            try:
                change, at = _read_change(record, at)
            except (struct.error, UnicodeDecodeError) as error:
                raise DataLoss(f"a record of the store's tail cannot be read: {error}") from error
            yield change


def _read_change(record: bytes, at: int) -> tuple[Made | End, int]:
    if record[at] == _ENDED:
        _, number, started_s, ended_s, nbytes = _ENDED_HEAD.unpack_from(record, at)
        (data,), at = _cut(record, at + _ENDED_HEAD.size, nbytes)
        return End(number, started_s, ended_s, data), at
    if record[at] != _MADE:
        raise DataLoss(f"a record of the store's tail has kind {record[at]}, which this version does not know")
    found = _MADE_HEAD.unpack_from(record, at)
    _, number, session, options, priority, retries, place, created_s, submitted_s = found[:9]
    (id, key, payload), at = _cut(record, at + _MADE_HEAD.size, *found[9:])
    made = Made(number, session, priority, retries, place, created_s, submitted_s, id.decode())
    made.options, made.key, made.payload = options, key.decode(), payload
    return made, at


def _cut(record: bytes, at: int, *sizes: int) -> tuple[list[bytes], int]:
    """Return pieces of these sizes, and where they end."""
    found = []
    for nbytes in sizes:
        if at + nbytes > len(record):
            raise DataLoss("a record of the store's tail ends before it should")
        found.append(record[at : at + nbytes])
        at += nbytes
    return found, at
