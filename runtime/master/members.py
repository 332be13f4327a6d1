"""The tasks of a session: the master's own, in this process, and others, over gRPC."""

from __future__ import annotations

import contextlib
import secrets
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from google.protobuf.message import DecodeError

from runtime import wire
from runtime._ext.errors import Aborted, Cancelled, Error, Internal
from runtime._ext.worker_codec import encode_run_graph_request, scan_run_graph_response
from runtime.errors import from_code
from runtime.master.parts_run import PartAnswer
from runtime.step.stats import step_stats
from runtime.worker.derived import Trailers, with_trailers
from runtime.worker.exchange import Sent

if TYPE_CHECKING:
    from runtime.master.parts_run import PartCall
    from runtime.master.transfers import Transfers
    from runtime.worker.channels import Answered, Connections
    from runtime.worker.session import WorkerSession
    from runtime.worker.worker import Worker

__all__ = ["OtherTask", "OwnTask"]

Registered = Callable[["str | None", "BaseException | None"], None]
Ended = Callable[["PartAnswer | None", "BaseException | None"], None]


class OwnTask:
    """The master's own task; see `runtime.master.parts_run.Member`.

    Parameters
    ----------
    worker : Worker
    session : WorkerSession
    hand_over : callable
        Runs a callable in another thread.
    transfers : Transfers
    """

    def __init__(self, worker: Worker, session: WorkerSession, hand_over: Callable[[Callable[[], object]], object],
                 transfers: Transfers) -> None:
        self.name = session.task.name
        self._worker = worker
        self._session = session
        self._hand_over = hand_over
        self._transfers = transfers

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

    def deregister(self, graph_handle: str) -> None:
        """Forget a graph; one that the session's end has forgotten is fine."""
        with contextlib.suppress(Aborted):
            self._session.deregister(graph_handle)

    def run(self, graph_handle: str, step_id: int, call: PartCall, done: Ended) -> Callable[[], None]:
        """Run this task's part."""
        if call.trace:
            return _Traced(self._transfers, step_id, lambda ended: self._run(graph_handle, step_id, call, ended), done
                           ).start()
        return self._run(graph_handle, step_id, call, done)

    def _run(self, graph_handle: str, step_id: int, call: PartCall, done: Ended) -> Callable[[], None]:
        device = self._session.task.devices[0].name

        def answered(tensors: list[Sent] | None, error: BaseException | None) -> None:
            if error is not None:
                done(None, error)
                return
            traced = run.step.trace if call.trace else None
            done(PartAnswer([sent.array for sent in tensors or ()],
                            [] if traced is None else [step_stats(traced, device)],
                            [run.graph.told()] if call.graphs else []), None)

        send = {key: Sent(value, kind) for key, (value, kind) in call.send.items()}
        try:
            run = self._worker.start(self._session, graph_handle, step_id, send, call.trace, call.partial)
        except Exception as error:
            done(None, error)
            return _nothing
        if call.watch is not None:
            call.watch(run.step)
        if call.partial:
            self._worker.when_received(run, step_id, call.receive, answered, call.last)
        else:
            self._worker.when_ended(run, step_id, call.receive, answered)

        def end() -> None:
            run.step.cancel(Cancelled(f"Step {step_id} cancelled.  Cancelling rendezvous."))

        return end

    def clean(self, step_id: int) -> None:
        """Forget what is left of a step."""
        self._worker.clean(step_id)


class OtherTask:
    """Another task; see `runtime.master.parts_run.Member`.

    Parameters
    ----------
    connections : Connections
    name, address : str
    handle : str
        Of the session.
    config : wire.ConfigProto
        The session's.
    transfers : Transfers
    """

    def __init__(self, connections: Connections, name: str, address: str, handle: str, config: Any,
                 transfers: Transfers) -> None:
        self.name = name
        self.address = address
        self._transfers = transfers
        self._connections = connections
        self._handle = handle
        self._config = config

    def _begin(self, method: str, request: bytes, what: str, done: Answered,
               note: Callable[[Trailers], None] | None = None) -> Callable[[], None]:
        return self._connections.begin(self.address, self.name, method, request, what, done, note)

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

    def deregister(self, graph_handle: str) -> None:
        """Tell the task to forget a graph."""
        request = wire.DeregisterGraphRequest(session_handle=self._handle, create_worker_session_called=True,
                                              graph_handle=graph_handle).SerializeToString()
        self._connections.owed.tell(self.address, self.name, "DeregisterGraph", request, "the end of a graph")

    def run(self, graph_handle: str, step_id: int, call: PartCall, done: Ended) -> Callable[[], None]:
        """Have the task run its part."""
        if call.trace:
            return _Traced(self._transfers, step_id, lambda ended: self._run(graph_handle, step_id, call, ended), done
                           ).start()
        return self._run(graph_handle, step_id, call, done)

    def _run(self, graph_handle: str, step_id: int, call: PartCall, done: Ended) -> Callable[[], None]:
        options = wire.ExecutorOpts(record_timeline=call.trace, record_partition_graphs=call.graphs).SerializeToString()
        request = encode_run_graph_request(
            self._handle, graph_handle, step_id, tuple(call.send), [value for value, _ in call.send.values()],
            call.receive, exec_opts=options, request_id=secrets.randbits(63) or 1, is_partial=call.partial,
            is_last_partial_run=call.last)
        marks: Trailers = ()

        def note(trailers: Trailers) -> None:
            nonlocal marks
            marks = trailers

        def answered(data: bytes | None, error: BaseException | None) -> None:
            if data is None:
                done(None, error)
                return
            try:
                answer = scan_run_graph_response(data)
                if answer.status_code:
                    raise with_trailers(from_code(answer.status_code, answer.status_message), marks)
                found = PartAnswer(answer.arrays, [wire.StepStats.FromString(answer.step_stats)]
                                   if answer.step_stats else [],
                                   [wire.GraphDef.FromString(graph) for graph in answer.partition_graphs])
            except DecodeError as problem:
                done(None, Internal(f"{self.name} answers a RunGraph with what is no message: {problem}"))
            except Error as problem:
                done(None, problem)
            else:
                done(found, None)

        what = f"a call of the partial run {step_id}" if call.partial else f"step {step_id}"
        return self._begin("RunGraph", request, what, answered, note)

    def clean(self, step_id: int) -> None:
        """Tell the task to forget what is left of a step."""
        request = wire.CleanupGraphRequest(step_id=step_id).SerializeToString()
        self._connections.owed.tell(self.address, self.name, "CleanupGraph", request, f"the end of step {step_id}")


class _Traced:
    """A run of a part between the beginning and the end of a task's log of transfers."""

    def __init__(self, transfers: Transfers, step_id: int, run: Callable[[Ended], Callable[[], None]], done: Ended
                 ) -> None:
        self._transfers = transfers
        self._step_id = step_id
        self._run = run
        self._done = done
        self._lock = threading.Lock()
        self._give_up: Callable[[], None] = _nothing
        self._stage = 0
        self._is_given_up = False

    def start(self) -> Callable[[], None]:
        """Begin; return what ends it early."""
        self._go(1, lambda: self._transfers.begin(self._begun))
        return self.end

    def _go(self, stage: int, work: Callable[[], Callable[[], None]]) -> None:
        """Do the next thing, and keep what gives it up unless another one has begun meanwhile."""
        with self._lock:
            self._stage = stage
        give_up = work()
        with self._lock:
            if self._stage != stage:
                return
            self._give_up = give_up
            is_given_up = self._is_given_up
        if is_given_up:
            give_up()

    def _begun(self) -> None:
        self._go(2, lambda: self._run(self._ran))

    def _ran(self, answer: PartAnswer | None, error: BaseException | None) -> None:
        if answer is None:
            self._transfers.end(self._step_id, _forget)
            self._done(None, error)
            return

        def fetched(stats: Any) -> None:
            if stats is not None:
                answer.stats.append(stats)
            self._done(answer, None)

        self._go(3, lambda: self._transfers.end(self._step_id, fetched))

    def end(self) -> None:
        """End what is under way; what follows ends, too."""
        with self._lock:
            self._is_given_up = True
            give_up = self._give_up
        give_up()


def _forget(stats: Any) -> None:
    pass


def _nothing() -> None:
    pass
