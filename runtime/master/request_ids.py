"""Requests that came before: a client that repeats one must not have it run twice."""

from __future__ import annotations

from collections import deque

from runtime._ext.errors import Aborted

__all__ = ["RequestIds"]


class RequestIds:
    """The last request ids of a service, in a ring.

    Parameters
    ----------
    size : int
        How many are remembered; the oldest is forgotten first.

    Notes
    -----
    Safe from several threads: an id is new to exactly one of those who bring it at the same time.
    """

    def __init__(self, size: int = 10_000) -> None:
        self._size = size
        self._known: dict[int, object] = {}
        self._ring: deque[int] = deque()

    def __len__(self) -> int:
        return len(self._known)

    def check(self, request_id: int, what: str, session_handle: str) -> None:
        """Remember a request.

        Parameters
        ----------
        request_id : int
            64 bits, signed; 0 asks for no tracking.
        what : str
            The method, as TensorFlow's message names it: ``RunStep (Master)``.
        session_handle : str
            For the message.

        Raises
        ------
        Aborted
            If the id was seen before.
        """
        if not request_id:
            return
        mine = object()  # setdefault is one step under the interpreter's lock; a length compared twice is not
        if self._known.setdefault(request_id, mine) is not mine:
            raise Aborted(
                f'The same {what} request was received twice. session_handle: "{session_handle}" request_id: '
                f"{request_id}"
            )
        self._ring.append(request_id)
        if len(self._ring) > self._size:
            self._known.pop(self._ring.popleft(), None)
