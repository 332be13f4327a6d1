"""Moving arrays between programs, over the cheapest road that both ends can take.

The same process gets a reference, a process of the same user on the same host a segment of shared memory, any other a
stream of chunks with checksums, which goes on where it was when the connection breaks.

>>> # one program
>>> arrays = transport.receive(listen="127.0.0.1:7000")                          # doctest: +SKIP
>>> # another
>>> transport.send({"w": w, "b": b}, to="grpc://127.0.0.1:7000")                 # doctest: +SKIP

Where neither program can be reached by the other, both name a server between them: `send` to it, `receive` from it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

from runtime._ext.errors import FailedPrecondition
from runtime.transport.roads import Road, Totals, totals

if TYPE_CHECKING:
    from runtime.transport.parcel import Progress
    from runtime.transport.segments import Array

__all__ = ["Road", "Totals", "empty", "receive", "send", "totals"]

_T = TypeVar("_T")


def send(items: Any, to: str, key: str = "default", *, timeout_s: float | None = None, compress: str | None = None,
         progress: Progress | None = None, share: bool = True, **options: Any) -> None:
    """Send arrays, and return when the receiver has them.

    Parameters
    ----------
    items : mapping of str to array, or array
        numpy arrays of any shape and order, objects with DLPack (tensors of PyTorch, JAX, CuPy; on the CPU without a
        copy), or anything that numpy makes an array of. They must not change before this returns.
    to : str
        The server that the receiver listens on, or takes the parcel from: ``grpc://HOST:PORT``, ``grpcs://HOST:PORT``
        or ``unix:PATH``.
    key : str
        Under which the receiver waits. Parcels of one key arrive in the order in which they were sent to it.
    timeout_s : float, optional
        Seconds until this gives up; it waits for a receiver without end otherwise.
    compress : {'zlib', 'zstd'}, optional
        For what goes over a stream.
    progress : callable, optional
        ``progress(done_bytes, total_bytes)``, called from time to time.
    share : bool
        Whether shared memory and references may be used.
    resume_s : float
        For how long, without progress, broken streams and unreachable servers are tried again; 30 when left out.
    token, tls, ca, cert, tls_key, server_name
        How to get in, as for `runtime.Session`; the client's key is called ``tls_key`` here.

    Raises
    ------
    InvalidArgument
        An array has no form that others can read; names it.
    DeadlineExceeded
        It took longer than `timeout_s`; says how far it came.
    Unavailable
        The server cannot be reached, or the receiver has gone for good.
    ResourceExhausted
        The receiver does not take so much; names the largest item.

    Notes
    -----
    Safe from several threads. ``runtime.transport.aio.send`` is the same as a coroutine; a cancelled one ends the
    parcel, as an interrupt does here.
    """
    from runtime.transport import aio

    _run(aio.send(items, to, key, timeout_s=timeout_s, compress=compress, progress=progress, share=share, **options))


def receive(where: str | None = None, key: str = "default", *, listen: str | None = None,
            timeout_s: float | None = None, limit_bytes: int | None = None, progress: Progress | None = None,
            share: bool = True, **options: Any) -> Any:
    """Receive what was sent under a key.

    Parameters
    ----------
    where : str, optional
        The server that the parcel comes by.
    key : str
    listen : str, optional
        In place of `where`: ``HOST:PORT`` or ``unix:PATH`` to listen on until one parcel is here. Takes the settings of
        `runtime.Server`, such as ``insecure=True`` for an address that others reach.
    timeout_s : float, optional
        Seconds until this gives up; it waits for a sender without end otherwise.
    limit_bytes : int, optional
        What the parcel may hold; the machine's memory when left out.
    progress, share, resume_s, token, tls, ca, cert, tls_key, server_name
        As for `send`.

    Returns
    -------
    dict of str to ndarray, or ndarray
        As it was sent: one array when one alone was. Of the same dtype, shape and order. Arrays are writable, except
        those that the sender has in shared memory itself. One that came from the same process is the sender's own.

    Raises
    ------
    DeadlineExceeded
        It took longer than `timeout_s`; says how far it came.
    Unavailable
        The server cannot be reached, or the sender has gone for good.
    ResourceExhausted
        The parcel holds more than `limit_bytes`, or than there is memory for.

    Notes
    -----
    Memory goes back when the last view of an array dies. A child that is forked shares the received memory with its
    parent, and may use it as long as that does.
    """
    from runtime.transport import aio

    return _run(aio.receive(where, key, listen=listen, timeout_s=timeout_s, limit_bytes=limit_bytes, progress=progress,
                            share=share, **options))


def empty(shape: int | tuple[int, ...], dtype: Any = "float32", order: str = "C") -> Array:
    """Return a new array in shared memory, which `send` hands to processes of this host without a copy, read-only.

    See `runtime.transport.segments.empty`.
    """
    from runtime.transport import segments

    return segments.empty(shape, dtype, order)


def _run(work: Coroutine[Any, Any, _T]) -> _T:
    from runtime.edge import loops

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        pass
    else:
        work.close()
        raise FailedPrecondition("an event loop runs in this thread: await runtime.transport.aio.send or receive there")
    with asyncio.Runner(loop_factory=lambda: loops.new_loop("auto")) as runner:
        return runner.run(work)
