"""The task plane for programs on asyncio: ``runtime.AsyncTaskClient``.

>>> async with AsyncTaskClient("grpc://127.0.0.1:2222") as client:           # doctest: +SKIP
...     async with client.session(max_retries=2) as session:
...         tasks = await session.map([b"1", b"2", b"3"])
...         print(await session.gather(tasks, progress=True))
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any, Self

from runtime import wire
from runtime.client.access import Access
from runtime.client.tasks.arguments import checked_number
from runtime.client.tasks.calls import SUBMITTER, Calls
from runtime.client.tasks.creation import make_options
from runtime.client.tasks.handle import AsyncTaskHandle
from runtime.client.tasks.session import AsyncTaskSession
from runtime.client.tasks.submissions import Submissions
from runtime.errors import Internal, InvalidArgument

__all__ = ["AsyncTaskClient", "AsyncTaskHandle", "AsyncTaskSession", "make_options"]

TIMEOUT_S = 30.0
RETRY_S = 30.0


class AsyncTaskClient:
    """A server's tasks.

    Parameters
    ----------
    target : str
        ``grpc://HOST:PORT``, ``grpcs://HOST:PORT`` for TLS, or ``unix:PATH``.
    arrays : bool
        Whether payloads may be arrays (a mapping of names to arrays, or one alone) and results are: workers made by
        ``@worker(arrays=True)``.
    timeout_s : float
        For calls that are answered at once.
    retry_s : float
        For how long a server that cannot be reached is tried again, by calls that may be made twice.
    token, tls, ca, cert, key, server_name
        How to get in; see `runtime.Session`.

    Raises
    ------
    InvalidArgument
        For a target or access that cannot be used. Nothing is connected before the first call.

    Concurrency: belongs to the event loop on which it is first used.
    """

    def __init__(
        self,
        target: str,
        *,
        arrays: bool = False,
        timeout_s: float = TIMEOUT_S,
        retry_s: float = RETRY_S,
        token: str | None = None,
        tls: bool | None = None,
        ca: Any = None,
        cert: Any = None,
        key: Any = None,
        server_name: str | None = None,
    ) -> None:
        if not isinstance(target, str):
            raise InvalidArgument(f"target is {target!r}; it must be text such as grpc://HOST:PORT")
        checked_number("timeout_s", timeout_s)
        checked_number("retry_s", retry_s)
        self.arrays = arrays
        self.calls = Calls(target, Access.of(target, token, tls, ca, cert, key, server_name), timeout_s, retry_s)
        self.submissions = Submissions(self.calls, timeout_s)
        self.known_chunk_bytes = 0
        # Until the server says that it has no such call.
        self.has_uploads = True
        # Until it turns out that it has no file on this machine to which this process could write.
        self.may_be_near = True

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Let go of the connection. What was submitted goes on."""
        await self.submissions.close()
        await self.calls.close()

    def session(
        self,
        id: str | None = None,
        *,
        priority: int = 1,
        max_retries: int = 3,
        max_duration_s: float = 3600.0,
        options: Mapping[str, str] | None = None,
    ) -> AsyncTaskSession:
        """Return a session, which is made at the first use or at the beginning of ``async with``.

        A ``with`` block that ends with an exception cancels it; otherwise its tasks go on.

        Parameters
        ----------
        id : str, optional
            Unique in the server; a random one when left out. To use a session that is there, see `attach`.
        priority, max_retries, max_duration_s, options
            Of the tasks that say nothing else; see `make_options`.
        """
        made = make_options(priority, max_retries, max_duration_s, options)
        return AsyncTaskSession(self, f"session-{uuid.uuid4()}" if id is None else id, made, exists=False)

    def attach(self, id: str, **options: Any) -> AsyncTaskSession:
        """Return a session that was made before; tasks get the options given here, or the usual ones."""
        return AsyncTaskSession(self, id, make_options(**options), exists=True)

    async def chunk_bytes(self) -> int:
        """Return the most bytes that one chunk of a payload may have."""
        if not self.known_chunk_bytes:
            reply = await self.submitter("GetServiceConfiguration", wire.armonik.Empty(), wire.armonik.Configuration)
            if reply.data_chunk_max_size <= 0:
                raise Internal(f"{self.calls.target}: GetServiceConfiguration answered data_chunk_max_size "
                               f"{reply.data_chunk_max_size}; it must be positive")
            self.known_chunk_bytes = reply.data_chunk_max_size
        return self.known_chunk_bytes

    async def submitter(self, method: str, message: Any, reply: Any, *, waits: bool = False) -> Any:
        """Make a call of the Submitter that may be repeated."""
        return await self.calls.unary(SUBMITTER + method, message, reply, waits=waits)
