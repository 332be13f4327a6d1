"""A server in the background of a Python program: ``runtime.Server``."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import os
import threading
import weakref
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from runtime import config
from runtime.errors import DeadlineExceeded
from runtime.tf_config import VARIABLE as TF_CONFIG

if TYPE_CHECKING:
    from runtime.edge.listener import Listener

# How long a start may take before it counts as failed; a server is ready within a second.
START_TIMEOUT_S = 60.0
# How long a server that has stopped serving may take to end its thread.
THREAD_END_S = 30.0
DEFAULT_LISTEN = "127.0.0.1:0"

_running: weakref.WeakSet[Server] = weakref.WeakSet()
_running_lock = threading.Lock()


class Server:
    """Serve in the background of this program, on a thread with an event loop of its own.

    The server answers from when the constructor returns until :meth:`stop`, the end of a ``with`` block, or the
    end of the program.

    Parameters
    ----------
    cluster : mapping or str, optional
        The jobs and tasks of the cluster, as :meth:`runtime.cluster_spec.ClusterSpec.parse` takes them. When left out,
        what the environment variable ``TF_CONFIG`` says, if there is one; ``""`` for a server on its own all the same.
    job_name, task_index : str, int, optional
        Which task of the cluster this is; when left out, what ``TF_CONFIG`` says, else ``local`` and 0.
    listen : str, optional
        ``HOST:PORT`` (port 0: any) or ``unix:PATH``; when left out, this task's address in the cluster, or without a
        cluster any port of the loopback address.
    settings : runtime.config.Settings, optional
        Every setting at once, in place of all other arguments; ``runtime.config.load()`` makes it from the
        environment and the user's file, which this class does not read by itself, ``TF_CONFIG`` apart.
    **options
        Any other field of :class:`runtime.config.Settings` by its name, such as ``services=("graph",)``,
        ``token_file=...``, ``tls_cert=...`` or ``grace_s=5``.

    Raises
    ------
    runtime.errors.InvalidArgument
        For an option that does not exist or a value that cannot be used.
    runtime.errors.FailedPrecondition
        If others could reach the address and there is neither TLS nor a token nor ``insecure=True``.
    runtime.errors.Unavailable
        If the address cannot be had, for instance because the port is in use.

    Notes
    -----
    Unlike ``tensor-runtime serve``, this changes nothing in the process: no memory allocator, no event loop policy,
    no signal handlers, no logging.

    Concurrency: every method may be called from any thread but the server's own.

    Examples
    --------
    >>> with Server() as server:
    ...     server.target.startswith("grpc://127.0.0.1:")
    True
    """

    def __init__(
        self,
        cluster: Mapping[str, Any] | str | None = None,
        job_name: str | None = None,
        task_index: int | None = None,
        listen: str | None = None,
        *,
        settings: config.Settings | None = None,
        **options: Any,
    ) -> None:
        if settings is None:
            named = {"cluster": cluster, "job_name": job_name, "task_index": task_index, "listen": listen}
            environment = {name: os.environ[name] for name in (TF_CONFIG,) if name in os.environ}
            settings = config.load({**options, **named}, environment, user_file=False, flag_origin="argument",
                                   defaults={"listen": DEFAULT_LISTEN}).settings
        self.settings = settings
        self._listener: Listener | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._failure: BaseException | None = None
        self._started = threading.Event()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="tensor-runtime-server", daemon=True)
        self._address = ""
        self._target = ""
        self._start()

    @property
    def target(self) -> str:
        """What clients connect to, with the real port: ``grpc[s]://HOST:PORT`` or ``unix:PATH``."""
        return self._target

    @property
    def address(self) -> str:
        """``HOST:PORT`` with the real port, or ``unix:PATH``."""
        return self._address

    def join(self, timeout: float | None = None) -> bool:
        """Wait until the server has stopped.

        Parameters
        ----------
        timeout : float, optional
            Seconds to wait at most; None waits for as long as it serves.

        Returns
        -------
        bool
            Whether it has stopped.
        """
        if not self._ended.wait(timeout):
            return False
        self._thread.join(timeout)
        return True

    def stop(self, grace: float | None = None) -> None:
        """Refuse new calls, let open ones end, and free the port, the thread and everything else.

        Does nothing if the server has stopped already.

        Parameters
        ----------
        grace : float, optional
            Seconds that open calls get to end before they are cancelled; the setting ``grace_s`` when left out.

        Raises
        ------
        DeadlineExceeded
            If the thread has not ended 30 s after the grace: something in it ignores its cancellation.
        """
        grace = self.settings.grace_s if grace is None else max(0.0, grace)
        listener, loop = self._listener, self._loop
        if listener is not None and loop is not None and not self._ended.is_set():
            with contextlib.suppress(RuntimeError):  # the loop closed in this very moment
                loop.call_soon_threadsafe(lambda: _background(loop, listener.stop(grace)))
        if not self.join(grace + THREAD_END_S):
            raise DeadlineExceeded(
                f"the server on {self._address} has not ended {THREAD_END_S:g} s after its grace of {grace:g} s; a "
                "call or a plane ignores its cancellation"
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # On the way out with an error nobody waits for the answers of open calls.
        self.stop(None if kind is None else 0.0)

    def __repr__(self) -> str:
        state = "stopped" if self._ended.is_set() else "serving"
        return f"<runtime.Server {self._target} {state}>"

    def _start(self) -> None:
        _stop_at_exit(self)
        self._thread.start()
        if not self._started.wait(START_TIMEOUT_S):
            raise DeadlineExceeded(f"the server on {self.settings.listen} did not start within {START_TIMEOUT_S:g} s")
        if self._failure is not None:
            self._thread.join(THREAD_END_S)
            failure, self._failure = self._failure, None
            raise failure

    def _run(self) -> None:
        # Imported here: gRPC takes 100 ms to import, and its threads must not start on `import runtime`.
        from runtime.edge import loops

        kind = self.settings.loop
        loop = None
        try:
            loop = loops.borrow_loop(kind)
            loops.run(loop, self._serve(loop))
        except BaseException as error:
            if self._started.is_set():
                raise
            self._failure = error.with_traceback(None)
        finally:
            self._listener = None
            self._loop = None
            with _running_lock:
                _running.discard(self)
                alone = not _running
            if loop is not None:
                loops.give_back(kind, loop, alone=alone)
            self._ended.set()
            self._started.set()

    async def _serve(self, loop: asyncio.AbstractEventLoop) -> None:
        from runtime.edge.listener import Listener

        listener = Listener(self.settings)
        await listener.start()
        self._address, self._target = listener.address, listener.target
        self._listener, self._loop = listener, loop
        self._started.set()
        await listener.wait_closed()


def _background(loop: asyncio.AbstractEventLoop, work: Any) -> None:
    task = loop.create_task(work)
    # The loop itself keeps only a weak reference.
    keep = [task]
    task.add_done_callback(lambda _: keep.clear())


def _stop_at_exit(server: Server) -> None:
    global _registered
    with _running_lock:
        _running.add(server)
        if not _registered:
            _registered = True
            atexit.register(_stop_all)


_registered = False


def _stop_all() -> None:
    """End the servers that a program left running, before the interpreter takes their modules away."""
    with _running_lock:
        left = list(_running)
    for server in left:
        with contextlib.suppress(DeadlineExceeded):
            server.stop(0.0)
