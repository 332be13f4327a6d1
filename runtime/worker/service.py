"""tensorflow.WorkerService: bytes into calls of the `Worker`, answers and errors back into bytes."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np

from runtime import wire
from runtime._ext.errors import Cancelled, Error, FailedPrecondition, Internal, ResourceExhausted
from runtime._ext.running_step import MemoryBound
from runtime._ext.tensor_codec import DEFAULT_MAX_BYTES
from runtime._ext.worker_codec import encode_recv_tensor_response, encode_run_graph_response, scan_run_graph
from runtime.cluster_spec import ClusterSpec
from runtime.devices.attributes import device_attributes
from runtime.edge.plane import Answer, Handler
from runtime.master.messages import parse
from runtime.step.stats import step_stats
from runtime.transport import handover, roads
from runtime.transport.roads import Road
from runtime.transport.step_tensors import PARCEL_ITEM
from runtime.worker.collectives.messages import encode_buffer
from runtime.worker.derived import trailers_of
from runtime.worker.rpc_log import add_transfers
from runtime.worker.step_traces import recording_s

if TYPE_CHECKING:
    from runtime._ext.worker_codec import RunGraphCall
    from runtime.master.task import Task
    from runtime.transport.step_tensors import StepTensors
    from runtime.worker.exchange import Sent
    from runtime.worker.rpc_log import RpcLog
    from runtime.worker.session import GraphRun
    from runtime.worker.worker import Worker

__all__ = ["WorkerService"]

logger = logging.getLogger(__name__)

# Work on a graph below this size takes the loop a millisecond or two; above it goes to a thread.
_LARGE_REQUEST_BYTES = 32 * 1024
_GRAPH_THREADS = 2
_TENSOR_THREADS = 2
_TIDY_S = 30.0

# What the loop reads of a RunGraph's tensors, and copies into its answer, itself; as for the master's RunStep.
_LOOP_MESSAGE_BYTES = 8 << 20
_LOOP_FEED_BYTES = 1 << 20
_LOOP_ANSWER_BYTES = 1 << 20
_OBJECT_BYTES = 64


class WorkerService:
    """The methods of tensorflow.WorkerService on one worker.

    Parameters
    ----------
    task : Task
    make_worker : callable
        Returns the worker. Called on the loop, for the first master that wants more than the status of the task.
    log : RpcLog
    tensors : StepTensors
        Hands out what does not travel in messages.
    step_memory_limit : int
        What the tensors of one RunGraph may take that are no views of its message, in bytes; 0 for no limit.
    idle_s : float
        Sessions of masters elsewhere of which nothing is asked for so long are deleted; 0 to keep them.

    Notes
    -----
    Concurrency: everything runs on one event loop; what takes long goes to threads of its own or of the runner.
    """

    def __init__(self, task: Task, make_worker: Callable[[], Worker], log: RpcLog, tensors: StepTensors,
                 step_memory_limit: int = 0, idle_s: float = 0.0) -> None:
        self._task = task
        self._tensors = tensors
        self._make_worker = make_worker
        self._made: Worker | None = None
        self._log = log
        self._step_memory_limit = step_memory_limit
        self._idle_s = idle_s
        self._tidying: asyncio.TimerHandle | None = None
        self._has_registered = False  # the first time, kernels are loaded
        self._threads = ThreadPoolExecutor(_GRAPH_THREADS, thread_name_prefix="tensor-runtime-register")
        self._tensor_threads = ThreadPoolExecutor(_TENSOR_THREADS, thread_name_prefix="tensor-runtime-tensors")

    def services(self) -> Mapping[str, Mapping[str, Handler]]:
        """Return the handlers by service and method name."""
        return {
            "tensorflow.WorkerService": {
                "GetStatus": self.get_status,
                "CreateWorkerSession": self.create_worker_session,
                "DeleteWorkerSession": self.delete_worker_session,
                "RegisterGraph": self.register_graph,
                "DeregisterGraph": self.deregister_graph,
                "RunGraph": self.run_graph,
                "CleanupGraph": self.cleanup_graph,
                "CleanupAll": self.cleanup_all,
                "RecvTensor": self.recv_tensor,
                "Logging": self.logging,
                "Tracing": self.tracing,
                "RecvBuf": self.recv_buf,
                "GetStepSequence": self.get_step_sequence,
                "CompleteGroup": self.complete_group,
                "CompleteInstance": self.complete_instance,
                "MarkRecvFinished": self.mark_recv_finished,
            }
        }

    @property
    def made(self) -> Worker | None:
        """Return the worker, if anybody asked for it."""
        return self._made

    @property
    def worker(self) -> Worker:
        """Return the worker, made now if nobody asked for it before."""
        if self._made is None:
            self._made = self._make_worker()
            self._tidy(self._made)
        return self._made

    def _tidy(self, worker: Worker) -> None:
        """Look from time to time for what dead masters have left."""
        worker.sweep()
        if self._idle_s:
            worker.delete_idle(self._idle_s)
        pause = min(_TIDY_S, self._idle_s / 4) if self._idle_s else _TIDY_S
        self._tidying = asyncio.get_running_loop().call_later(pause, self._tidy, worker)

    def drain(self) -> None:
        """Let those go who wait for tensors that no running step can make."""
        if self._made is not None:
            self._made.drain()

    async def stop(self) -> None:
        """End every session."""
        if self._tidying is not None:
            self._tidying.cancel()
        if self._made is not None:
            self._made.close()
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._tensor_threads.shutdown(wait=False, cancel_futures=True)

    # Sessions

    async def get_status(self, request: bytes, context: Any) -> bytes:
        """GetStatus: the devices of this task."""
        parse(wire.GetStatusRequest, request)
        response = wire.GetStatusResponse()
        for device in self._task.devices:
            response.device_attributes.append(device_attributes(device))
        return response.SerializeToString()

    async def create_worker_session(self, request: bytes, context: Any) -> bytes:
        """CreateWorkerSession: of this server's own cluster, or of the one in the request."""
        message = parse(wire.CreateWorkerSessionRequest, request)
        server = message.server_def
        cluster = ClusterSpec.from_proto(server.cluster) if server.cluster.job else None
        self.worker.create_session(message.session_handle, cluster, server.job_name, server.task_index,
                                   message.isolate_session_state, message.master_task, message.master_incarnation)
        return b""

    async def delete_worker_session(self, request: bytes, context: Any) -> bytes:
        """DeleteWorkerSession; one that is not known is fine."""
        self.worker.delete_session(parse(wire.DeleteWorkerSessionRequest, request).session_handle)
        return b""

    # Graphs

    async def register_graph(self, request: bytes, context: Any) -> bytes:
        """RegisterGraph."""
        message = parse(wire.RegisterGraphRequest, request)
        session = self.worker.session(message.session_handle, message.create_worker_session_called)
        leader = message.config_proto.experimental.collective_group_leader
        if leader and session.state.collectives is not None:
            session.state.collectives.leader = leader
        if len(request) > _LARGE_REQUEST_BYTES or not self._has_registered:
            self._has_registered = True
            handle = await asyncio.get_running_loop().run_in_executor(
                self._threads, session.register, message.graph_def)
        else:
            handle = session.register(message.graph_def)
        return wire.RegisterGraphResponse(graph_handle=handle).SerializeToString()

    async def deregister_graph(self, request: bytes, context: Any) -> bytes:
        """DeregisterGraph."""
        message = parse(wire.DeregisterGraphRequest, request)
        session = self.worker.session(message.session_handle, message.create_worker_session_called)
        session.deregister(message.graph_handle)
        return b""

    # Steps

    async def run_graph(self, request: bytes, context: Any) -> bytes:
        """RunGraph: answers when the part of the step that runs here has ended."""
        try:
            call = await self._scan(request)
        except Error as error:
            part = getattr(error, "call", None)  # what could be read of the request, when a tensor is at fault
            if part is None:
                raise
            return _failed_graph(part, error, context)
        try:
            return await self._run_graph(call)
        except Exception as error:
            return _failed_graph(call, error, context)

    async def _scan(self, request: bytes) -> RunGraphCall:
        """Read a RunGraphRequest, in a thread where that may take long."""
        if len(request) <= _LOOP_MESSAGE_BYTES:
            try:
                return scan_run_graph(request, _LOOP_FEED_BYTES)
            except ResourceExhausted:
                pass  # too much for the loop; whether it is too much at all is seen below
        return await asyncio.get_running_loop().run_in_executor(self._tensor_threads, self._scan_here, request)

    def _scan_here(self, request: bytes) -> RunGraphCall:
        """Read a RunGraphRequest; its tensors may take as much memory as a step may hold."""
        limit = self._step_memory_limit
        with MemoryBound(limit) as bound:
            try:
                return scan_run_graph(request, min(limit, DEFAULT_MAX_BYTES) if limit else None)
            except Error:
                raise
            except MemoryError:
                raise bound.refusal("the tensors of a RunGraph") or ResourceExhausted(
                    "out of memory for the tensors of a RunGraph") from None

    async def _run_graph(self, call: RunGraphCall) -> bytes:
        options = parse(wire.ExecutorOpts, call.exec_opts or b"")
        loop = asyncio.get_running_loop()
        waiting: asyncio.Future[list[Sent]] = loop.create_future()

        def settle(tensors: list[Sent] | None, error: BaseException | None) -> None:
            if waiting.done():
                return
            if error is not None:
                waiting.set_exception(error)
            else:
                waiting.set_result(tensors or [])

        def answered(tensors: list[Sent] | None, error: BaseException | None) -> None:
            _call_on(loop, lambda: settle(tensors, error))

        run = self.worker.run_graph(call, options.record_timeline, answered)
        try:
            tensors = await waiting
        except asyncio.CancelledError:
            run.step.cancel(Cancelled(f"Step {call.step_id} cancelled.  Cancelling rendezvous."))
            raise
        nbytes = sum(_content_bytes(sent.array) for sent in tensors)
        if nbytes <= _LOOP_ANSWER_BYTES and not options.record_timeline and not options.record_partition_graphs:
            return self._encode(call, tensors, run, options)
        return await loop.run_in_executor(self._tensor_threads, self._encode, call, tensors, run, options)

    def _encode(self, call: RunGraphCall, tensors: list[Sent], run: GraphRun, options: Any) -> bytes:
        """Return the answer of a RunGraph that has gone well."""
        return encode_run_graph_response(
            call.recv_keys,
            [sent.array for sent in tensors],
            [int(sent.kind) for sent in tensors],
            self._stats(run) if options.record_timeline else None,
            [_graph_bytes(run)] if options.record_partition_graphs else (),
        )

    def _stats(self, run: GraphRun) -> bytes | None:
        trace = run.step.trace
        return None if trace is None else step_stats(trace, self._task.devices[0].name).SerializeToString()

    async def cleanup_graph(self, request: bytes, context: Any) -> bytes:
        """CleanupGraph; a step that is not known is fine."""
        self.worker.clean(parse(wire.CleanupGraphRequest, request).step_id)
        return b""

    async def cleanup_all(self, request: bytes, context: Any) -> bytes:
        """CleanupAll: empties containers on every device."""
        self.worker.clear(parse(wire.CleanupAllRequest, request).container)
        return b""

    async def recv_tensor(self, request: bytes, context: Any) -> Answer:
        """RecvTensor: answers when the tensor is there, however long that takes."""
        message = parse(wire.RecvTensorRequest, request)
        loop = asyncio.get_running_loop()
        options = message.transport_options
        if options.type_url:
            returned = handover.take_back(options)
            if returned is not None:
                if returned[0].nbytes > handover.MESSAGE_BYTES:
                    return self._in_parcel(*returned)
                return encode_recv_tensor_response(*returned, False, time.time_ns() // 1000, apart=True)
        waiting: asyncio.Future[tuple[Sent | None, bool]] = loop.create_future()

        def settle(sent: Sent | None, is_dead: bool, error: BaseException | None) -> None:
            if waiting.done():
                return
            if error is not None:
                waiting.set_exception(error)
            else:
                waiting.set_result((sent, is_dead))

        def done(sent: Sent | None, is_dead: bool, error: BaseException | None) -> None:
            _call_on(loop, lambda: settle(sent, is_dead, error))

        drop = self.worker.receive(message.step_id, message.rendezvous_key, message.request_id, done)
        try:
            sent, is_dead = await waiting
        finally:
            drop()
        now = time.time_ns() // 1000
        if sent is None or is_dead:
            return encode_recv_tensor_response(None, None, True, now)
        if options.type_url and handover.is_wanted(options, sent.array):
            if handover.is_in_segment(sent.array):
                lent = handover.lend_tensor(sent.array)
            else:
                lent = await loop.run_in_executor(None, handover.lend_tensor, sent.array)
            if lent is not None:
                return encode_recv_tensor_response(_empty(sent.array), int(sent.kind), False, now) + lent
        if options.type_url and handover.takes_parcel(options, sent.array):
            return self._in_parcel(sent.array, int(sent.kind))
        began = time.perf_counter()
        try:
            answer = encode_recv_tensor_response(sent.array, int(sent.kind), False, now, apart=True)
        except ResourceExhausted as error:
            raise ResourceExhausted(f"RecvTensor of {message.rendezvous_key}: {error.message}") from None
        roads.count("sent", Road.MESSAGE, sent.array.nbytes, time.perf_counter() - began, 0)
        return answer

    def _in_parcel(self, array: Any, kind: int) -> bytes:
        """Return the answer that lets a receiver of ours come for a tensor in chunks."""
        key = self._tensors.keep({PARCEL_ITEM: array})
        return (encode_recv_tensor_response(_empty(array), kind, False, time.time_ns() // 1000)
                + handover.in_parcel(key, array))

    # Collectives

    async def complete_group(self, request: bytes, context: Any) -> bytes:
        """CompleteGroup: this task leads; answers when all members are there."""
        message = parse(wire.CompleteGroupRequest, request)
        group = await _outcome(lambda done: self.worker.collectives.groups.join(
            message.group_key, message.group_size, message.device_type, message.device_attributes, done))
        return wire.CompleteGroupResponse(
            group_key=group.key, group_size=len(group.members), device_type=group.device_type,
            num_tasks=group.num_tasks, device_attributes=group.members).SerializeToString()

    async def complete_instance(self, request: bytes, context: Any) -> bytes:
        """CompleteInstance: answers when the members agree, and who the source of a broadcast is."""
        message = parse(wire.CompleteInstanceRequest, request)
        collectives = self.worker.collectives
        group = collectives.groups.get(message.group_key)
        if group is None:
            raise FailedPrecondition(f"group {message.group_key} not found. This normally means the server has "
                                     "restarted")
        shape = tuple(dim.size for dim in message.shape.dim)
        rank = await _outcome(lambda done: collectives.instances.join(
            group, message.instance_key, message.type, message.data_type, shape, message.device, message.is_source,
            message.step_id, done))
        return wire.CompleteInstanceResponse(instance_key=message.instance_key, source_rank=rank).SerializeToString()

    async def get_step_sequence(self, request: bytes, context: Any) -> bytes:
        """GetStepSequence: the numbers of the next steps of some graph keys."""
        message = parse(wire.GetStepSequenceRequest, request)
        response = wire.GetStepSequenceResponse()
        for key, number in self.worker.collectives.sequences.make(message.graph_key):
            response.step_sequence.add(graph_key=key, next_step_id=number)
        return response.SerializeToString()

    async def recv_buf(self, request: bytes, context: Any) -> Answer:
        """RecvBuf: a piece of a collective, when it is there."""
        message = parse(wire.RecvBufRequest, request)
        offered = await _outcome(lambda done: self.worker.give_buffer(
            message.step_id, message.buf_rendezvous_key, message.src_device, message.src_incarnation,
            message.request_id, done))
        answer = encode_buffer(offered.array, time.time_ns() // 1000)
        offered.taken()
        return answer

    # Looking

    async def logging(self, request: bytes, context: Any) -> bytes:
        """Logging: switches the log of received tensors; hands it over, and the steps that `tracing` had recorded."""
        message = parse(wire.LoggingRequest, request)
        if message.enable_rpc_logging:
            self._log.is_enabled = True
        elif message.disable_rpc_logging or not message.fetch_step_id:
            self._log.is_enabled = False
        if message.clear:
            self._log.clear()
            if self._made is not None:
                self._made.traces.clear()
        wanted = tuple(dict.fromkeys(message.fetch_step_id))
        if not wanted:
            return b""
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._logged, wanted)

    def _logged(self, step_ids: tuple[int, ...]) -> bytes:
        """Take out what is kept of some steps: a LoggingResponse."""
        steps = {} if self._made is None else dict(self._made.traces.fetch(step_ids))
        for step_id, transfers in self._log.fetch(step_ids):
            if transfers:
                add_transfers(steps.setdefault(step_id, wire.StepStats()), transfers)
        response = wire.LoggingResponse()
        for step_id, stats in steps.items():
            response.step.add(step_id=step_id, step_stats=stats)
        return response.SerializeToString()

    async def tracing(self, request: bytes, context: Any) -> bytes:
        """Tracing: has the steps of the next seconds recorded, with what they receive; Logging hands them over."""
        options = parse(wire.TracingRequest, request).options
        seconds = recording_s(options, self._task.name)
        self.worker.traces.record(seconds)
        self._log.record(seconds)
        return b""

    async def mark_recv_finished(self, request: bytes, context: Any) -> bytes:
        """MarkRecvFinished: nothing is kept for a second answer, so there is nothing to forget."""
        parse(wire.MarkRecvFinishedRequest, request)
        return b""


def _empty(array: Any) -> Any:
    return np.empty(0, array.dtype)


async def _outcome(begin: Callable[[Callable[[Any, BaseException | None], None]], Callable[[], None]]) -> Any:
    """Begin something that calls back from any thread, and wait for it; give it up when the caller has gone."""
    loop = asyncio.get_running_loop()
    waiting: asyncio.Future[Any] = loop.create_future()

    def settle(found: Any, error: BaseException | None) -> None:
        if waiting.done():
            return
        if error is not None:
            waiting.set_exception(error)
        else:
            waiting.set_result(found)

    drop = begin(lambda found, error: _call_on(loop, lambda: settle(found, error)))
    try:
        return await waiting
    finally:
        drop()


def _call_on(loop: asyncio.AbstractEventLoop, work: Callable[[], None]) -> None:
    try:
        loop.call_soon_threadsafe(work)
    except RuntimeError:
        # The loop has closed: the server stopped, and nobody waits any more.
        logger.debug("an answer came after the loop that had asked for it")


def _failed_graph(call: RunGraphCall, error: Exception, context: Any) -> bytes:
    """Return the answer of a failed RunGraph whose master wants errors in the body; raise the error otherwise.

    The body has no place for marks, so they go where those of a raised error do.
    """
    if not isinstance(error, Error):
        logger.error("a RunGraph failed with an error of the wrong kind", exc_info=error)
        fault = Internal(f"{type(error).__name__}: {error}")
        fault.__cause__ = error
        error = fault
    if call.store_errors_in_response_body:
        marks = trailers_of(error)
        if marks:
            context.set_trailing_metadata(marks)
        return encode_run_graph_response(status=(error.code, error.message))
    raise error


def _content_bytes(array: Any) -> int:
    """Return about how many bytes an array takes in a message; elements that are objects are looked at one by one."""
    return int(array.size) * _OBJECT_BYTES if array.dtype == object else int(array.nbytes)


def _graph_bytes(run: GraphRun) -> bytes:
    return run.graph.told().SerializeToString()  # type: ignore[no-any-return]
