"""The tasks of a session: the master's own, in this process, and others, over gRPC."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from runtime import wire
from runtime._ext.errors import Cancelled, Error
from runtime._ext.worker_codec import encode_run_graph_request, scan_run_graph_response
from runtime.errors import from_code
from runtime.step.stats import step_stats
from runtime.worker.exchange import Sent

if TYPE_CHECKING:
    from runtime.dtypes import DataType
    from runtime.worker.channels import Answered, Connections
    from runtime.worker.session import WorkerSession
    from runtime.worker.worker import Worker

__all__ = ["OtherTask", "OwnTask"]

logger = logging.getLogger(__name__)

Registered = Callable[["str | None", "BaseException | None"], None]
Ended = Callable[["list[Any] | None", Any, "BaseException | None"], None]
Feeds = dict[str, "tuple[Any, DataType]"]


class OwnTask:
    """The master's own task; see `runtime.master.distributed.Member`.

    Parameters
    ----------
    worker : Worker
    session : WorkerSession
    hand_over : callable
        Runs a callable in another thread.
    """

    def __init__(self, worker: Worker, session: WorkerSession, hand_over: Callable[[Callable[[], object]], object]
                 ) -> None:
        self.name = session.task.name
        self._worker = worker
        self._session = session
        self._hand_over = hand_over

    def register(self, graph_def: Any, collective_key: int, done: Registered) -> None:
        """Compile this task's part in a thread."""

        def work() -> None:
            try:
                handle = self._session.register(graph_def)
            except Exception as error:
                done(None, error)
            else:
                done(handle, None)

        try:
            self._hand_over(work)
        except Error as error:
            done(None, error)

    def run(self, graph_handle: str, step_id: int, send: Feeds, receive: Sequence[str], trace: bool, done: Ended
            ) -> Callable[[], None]:
        """Run this task's part."""
        device = self._session.task.devices[0].name

        def answered(tensors: list[Sent] | None, error: BaseException | None) -> None:
            traced = run.step.trace
            done([sent.array for sent in tensors or ()], None if traced is None else step_stats(traced, device), error)

        try:
            run = self._worker.start(self._session, graph_handle, step_id,
                                     {key: Sent(value, kind) for key, (value, kind) in send.items()}, trace)
        except Exception as error:
            done(None, None, error)
            return _nothing
        self._worker.when_ended(run, step_id, receive, answered)

        def end() -> None:
            run.step.cancel(Cancelled(f"Step {step_id} cancelled.  Cancelling rendezvous."))

        return end

    def clean(self, step_id: int) -> None:
        """Forget what is left of a step."""
        self._worker.clean(step_id)


class OtherTask:
    """Another task; see `runtime.master.distributed.Member`.

    Parameters
    ----------
    connections : Connections
    name, address : str
    handle : str
        Of the session.
    config : wire.ConfigProto
        The session's.
    """

    def __init__(self, connections: Connections, name: str, address: str, handle: str, config: Any) -> None:
        self.name = name
        self.address = address
        self._connections = connections
        self._handle = handle
        self._config = config

    def _begin(self, method: str, request: bytes, what: str, done: Answered) -> Callable[[], None]:
        return self._connections.begin(self.address, self.name, method, request, what, done)

    def register(self, graph_def: Any, collective_key: int, done: Registered) -> None:
        """Have the task register its part."""
        request = wire.RegisterGraphRequest(session_handle=self._handle, create_worker_session_called=True,
                                            collective_graph_key=collective_key)
        request.graph_def.CopyFrom(graph_def)
        request.graph_options.CopyFrom(self._config.graph_options)
        request.config_proto.CopyFrom(self._config)

        def answered(answer: bytes | None, error: BaseException | None) -> None:
            if answer is None:
                done(None, error)
            else:
                done(wire.RegisterGraphResponse.FromString(answer).graph_handle, None)

        self._begin("RegisterGraph", request.SerializeToString(), "the registration of a graph", answered)

    def run(self, graph_handle: str, step_id: int, send: Feeds, receive: Sequence[str], trace: bool, done: Ended
            ) -> Callable[[], None]:
        """Have the task run its part."""
        options = wire.ExecutorOpts(record_timeline=trace).SerializeToString()
        request = encode_run_graph_request(
            self._handle, graph_handle, step_id, tuple(send), [value for value, _ in send.values()], receive,
            exec_opts=options, request_id=secrets.randbits(63) or 1)

        def answered(data: bytes | None, error: BaseException | None) -> None:
            if data is None:
                done(None, None, error)
                return
            try:
                answer = scan_run_graph_response(data)
                if answer.status_code:
                    raise from_code(answer.status_code, answer.status_message)
                stats = wire.StepStats.FromString(answer.step_stats) if answer.step_stats else None
            except Error as problem:
                done(None, None, problem)
            else:
                done(answer.arrays, stats, None)

        return self._begin("RunGraph", request, f"step {step_id}", answered)

    def clean(self, step_id: int) -> None:
        """Tell the task to forget what is left of a step."""
        request = wire.CleanupGraphRequest(step_id=step_id).SerializeToString()
        self._begin("CleanupGraph", request, f"the end of step {step_id}", _ignore)


def _nothing() -> None:
    pass


def _ignore(answer: bytes | None, error: BaseException | None) -> None:
    if error is not None:
        logger.debug("a step could not be cleaned up", extra={"reason": str(error)})
