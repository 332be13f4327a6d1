"""What becomes of results, told as it is on disk: those of tasks that one client submits one after the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from runtime.objects.value import Value
from runtime.tasks.waiting import Waiting

__all__ = ["Followed", "Follower"]

# Values that are kept at hand for one who reads slower than they come.
_KEPT_BYTES = 4 << 20


class Followed(NamedTuple):
    """A result that is there, or never will be.

    Attributes
    ----------
    tag : object
        What it was followed with.
    session, key : str
    value : Value or None
        When it is there and at hand.
    """

    tag: Any
    session: str
    key: str
    value: Value | None


class Follower:
    """Follows results of any sessions. Belongs to the loop of its tasks; `leave` is called at the end.

    Parameters
    ----------
    waiting : Waiting
    news : callable
        Called without arguments when `take` has something to return, or `is_closed` is set.

    Attributes
    ----------
    num_awaited : int
        Results that nobody has been told of yet.
    is_closed : bool
        Whether the server stops, so that nothing more is told.
    """

    def __init__(self, waiting: Waiting, news: Callable[[], object]) -> None:
        self.num_awaited = 0
        self.is_closed = waiting.is_closed
        self._waiting = waiting
        self._news = news
        self._awaited: dict[tuple[int, str], _Awaited] = {}
        self._settled: list[Followed] = []
        self._kept_bytes = 0
        self._is_left = False
        waiting.at_close(self.close)

    def expect(self, number: int) -> None:
        """Count results that are going to be followed."""
        self.num_awaited += number

    def follow(self, session_id: str, session: int, tag: Any, keys: Sequence[str]) -> None:
        """Follow results from now on: when they are on disk, and before anything that becomes of them is told.

        Parameters
        ----------
        session_id, session : str, int
            The session, and its number in the store.
        tag : object
            What `Followed.tag` is to be.
        keys : sequence of str
            Those that were expected.
        """
        if self._is_left:
            return
        for key in keys:
            awaited = self._awaited[session, key] = _Awaited(self, session_id, session, tag)
            self._waiting.enter_key(session, key, awaited)

    @property
    def has_news(self) -> bool:
        """Whether `take` has something to return."""
        return bool(self._settled)

    @property
    def has_all_news(self) -> bool:
        """Whether `take` has something to return, and nothing else is awaited."""
        return 0 < len(self._settled) == self.num_awaited

    def take(self, limit: int) -> list[Followed]:
        """Return what has become known since the last time, up to ``limit`` results."""
        if len(self._settled) <= limit:
            settled, self._settled, self._kept_bytes = self._settled, [], 0
        else:
            settled = self._settled[:limit]
            del self._settled[:limit]
            self._kept_bytes -= sum(len(one.value.data) for one in settled if one.value is not None)
        self.num_awaited -= len(settled)
        return settled

    def leave(self) -> None:
        """Be told of nothing any more."""
        self._is_left = True
        self._waiting.not_at_close(self.close)
        for (session, key), awaited in self._awaited.items():
            self._waiting.leave_key(session, key, awaited)
        self._awaited.clear()

    # For what is awaited

    def settled(self, awaited: _Awaited, key: str, value: Value | None) -> None:
        """Take note of a result."""
        self._awaited.pop((awaited.number, key), None)
        if value is not None and self._kept_bytes + len(value.data) > _KEPT_BYTES:
            value = None  # it is read again when its turn has come
        if value is not None:
            self._kept_bytes += len(value.data)
        self._settled.append(Followed(awaited.tag, awaited.session_id, key, value))
        self._news()

    def close(self) -> None:
        """Tell nothing more."""
        self.is_closed = True
        self._news()


class _Awaited:
    """One result that is followed."""

    __slots__ = ("_follower", "number", "session_id", "tag")

    def __init__(self, follower: Follower, session_id: str, number: int, tag: Any) -> None:
        self.session_id = session_id
        self.number = number
        self.tag = tag
        self._follower = follower

    def settle(self, key: str, value: Value | None = None) -> None:
        """It is there, perhaps with its value, or never will be."""
        self._follower.settled(self, key, value)
