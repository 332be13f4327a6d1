"""tensorflow.MasterService: bytes into calls of the `Master`, answers and errors back into bytes.

A RunStep that repeats a known one never meets protobuf: the codec gives names and arrays, the session's table has the
compiled step by the request's key, and the codec writes the answer.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, TypeVar

from google.protobuf.message import Message

from runtime import wire
from runtime._ext import running_step
from runtime._ext.errors import Cancelled, Error, Internal, InvalidArgument, ResourceExhausted
from runtime._ext.running_step import MemoryBound
from runtime._ext.step_codec import (
    RunStepCall,
    encode_run_callable_response,
    encode_run_step_error,
    encode_run_step_response,
    scan_run_callable,
    scan_run_step,
)
from runtime._ext.tensor_codec import DEFAULT_MAX_BYTES
from runtime.devices.attributes import device_attributes
from runtime.edge.plane import Answer, Handler, Immediate
from runtime.machine import memory_bytes
from runtime.master.ending import CLOSE_WAIT_S, timed_out
from runtime.master.master import Master
from runtime.master.messages import LARGE_BYTES, parse, parse_in_pieces
from runtime.observe.service import Observer
from runtime.step.pool import GrowingPool
from runtime.transport import elsewhere
from runtime.transport.step_tensors import StepTensors

if TYPE_CHECKING:
    from runtime._ext.executor import StepContext
    from runtime.master.session import MasterSession
    from runtime.master.session_tasks import SessionTasks
    from runtime.master.steps import PreparedStep
    from runtime.transport.elsewhere import Elsewhere
    from runtime.transport.step_tensors import Feeds

__all__ = ["MasterService"]

logger = logging.getLogger(__name__)

_M = TypeVar("_M", bound=Message)
_T = TypeVar("_T")

# Work on a graph below these sizes takes the loop less than a millisecond or two; above them it goes to a thread.
_LARGE_REQUEST_BYTES = 32 * 1024
_LARGE_GRAPH_NODES = 200
_GRAPH_THREADS = 2

# A step of a small graph is compiled by the loop itself, within these bounds; a graph of three nodes can hold a
# constant of gigabytes, or fold a product of large matrices.
_LOOP_COMPILE_S = 3e-3
_LOOP_COMPILE_BYTES = 1 << 20

# What the loop reads of a step's feeds itself: messages up to this size, as far as their tensors are views or take no
# more than so many bytes. All else may take long (a message of twenty bytes can announce a gigabyte of one value) and
# is read in a thread.
_LOOP_MESSAGE_BYTES = 8 << 20
_LOOP_FEED_BYTES = 1 << 20

RPC_CANCELLED = "The call was cancelled by the client."


class MasterService:
    """The ten methods of tensorflow.MasterService on one master.

    Concurrency: everything runs on one event loop; what takes long goes to threads of its own or of the runner.
    """

    def __init__(self, master: Master, session_tasks: Callable[[], SessionTasks] | None = None,
                 tensors: StepTensors | None = None) -> None:
        self.master = master
        self._tensors = StepTensors(memory_bytes()) if tensors is None else tensors
        self._make_tasks = session_tasks
        self._made_tasks: SessionTasks | None = None
        self._sessions = master.sessions
        self._check_id = master.request_ids.check
        self._runs_here = master.runner.runs_here
        self._threads = GrowingPool(_GRAPH_THREADS, "graph")
        self._observer = Observer(master, lambda work: self._in_thread(True, work))

    def services(self) -> Mapping[str, Mapping[str, Handler]]:
        """Return the handlers by service and method name."""
        return {
            "tensorflow.MasterService": {
                "CreateSession": self.create_session,
                "ExtendSession": self.extend_session,
                "PartialRunSetup": self.partial_run_setup,
                "RunStep": Immediate(self.run_step, self.run_step_at_once),
                "CloseSession": self.close_session,
                "ListDevices": self.list_devices,
                "Reset": self.reset,
                "MakeCallable": self.make_callable,
                "RunCallable": Immediate(self.run_callable, self.run_callable_at_once),
                "ReleaseCallable": self.release_callable,
            },
            **self._observer.services(),
        }

    async def start(self) -> None:
        """Kernels load with the first step that needs them; what is set here holds for all handlers."""
        running_step.install_here()

    def drain(self) -> None:
        """Let those go who wait for steps to trace."""
        self._observer.drain()

    async def stop(self, grace: float) -> None:
        """Cancel every step, close every session."""
        # No thread is asked for help here: at the end of a program there are none to be had.
        for session, closing in self.master.close_all():
            await _until_closed(session, closing, grace)
        self.master.close(0.0)
        self._threads.close(wait=False)

    # Sessions

    def _tasks(self) -> SessionTasks:
        """Return what opens sessions on other tasks."""
        if self._made_tasks is None:
            assert self._make_tasks is not None, "a master with a cluster needs the way to its tasks"
            self._made_tasks = self._make_tasks()
        return self._made_tasks

    async def create_session(self, request: bytes, context: Any) -> bytes:
        """CreateSession."""
        message = await self._parse(wire.CreateSessionRequest, request)
        others, cluster = self.master.other_tasks(message.config, message.target)
        devices = []
        if others:
            devices = await self._tasks().find(others, "CreateSession", message.target, _time_left(context))
        handle, version = await self._in_thread(
            len(request) > _LARGE_REQUEST_BYTES,
            lambda: self.master.create_session(message.graph_def, message.config, message.target, devices),
        )
        if others:
            try:
                await self._tasks().open(handle, others, message.config, cluster)
            except BaseException:
                await _until_closed(self._sessions[handle], self.master.close_session(handle))
                raise
        elif self.master.has_cluster and self._make_tasks is not None:
            self._tasks().join_collectives(handle, message.config, cluster)
        return wire.CreateSessionResponse(session_handle=handle, graph_version=version).SerializeToString()

    async def extend_session(self, request: bytes, context: Any) -> bytes:
        """ExtendSession."""
        message = await self._parse(wire.ExtendSessionRequest, request)
        version = await self._in_thread(
            len(request) > _LARGE_REQUEST_BYTES,
            lambda: self.master.extend_session(
                message.session_handle, message.graph_def, message.current_graph_version
            ),
        )
        return wire.ExtendSessionResponse(new_graph_version=version).SerializeToString()

    async def close_session(self, request: bytes, context: Any) -> bytes:
        """CloseSession: answers when no step of the session runs any more."""
        handle = (await self._parse(wire.CloseSessionRequest, request)).session_handle
        session = self._sessions.get(handle)
        closing = self.master.close_session(handle)
        if session is not None:
            await _until_closed(session, closing)
        if self._made_tasks is not None:
            await self._made_tasks.close(handle)
        return b""

    async def reset(self, request: bytes, context: Any) -> bytes:
        """Reset: empties containers and closes every session."""
        message = await self._parse(wire.ResetRequest, request)
        sessions = self.master.reset(tuple(message.container))
        others, _ = self.master.other_tasks(wire.ConfigProto(device_filters=message.device_filters))
        if others:
            await self._tasks().clean_all(message.container, others)
        for session, closing in sessions:
            await _until_closed(session, closing)
            if self._made_tasks is not None:
                await self._made_tasks.close(session.handle)
        return b""

    async def list_devices(self, request: bytes, context: Any) -> bytes:
        """ListDevices."""
        message = await self._parse(wire.ListDevicesRequest, request)
        response = wire.ListDevicesResponse()
        for device in self.master.list_devices(message.session_handle):
            response.local_device.append(device_attributes(device))
        if not message.session_handle:
            others, _ = self.master.other_tasks(wire.ConfigProto())
            if others:
                found = await self._tasks().find(others, "ListDevices", timeout_s=_time_left(context))
                response.remote_device.extend(device.attributes for device in found)
        else:
            response.local_device.extend(found.attributes for found in
                                         getattr(self._sessions.get(message.session_handle), "remote_devices", ()))
        return response.SerializeToString()

    # Steps

    def run_step_at_once(self, request: bytes, context: Any) -> Answer | None:
        """RunStep, where the step is known, waits for nothing and is short; None, without any effect, for all else."""
        if len(request) > _LOOP_MESSAGE_BYTES:
            return None
        try:
            call = scan_run_step(request, _LOOP_FEED_BYTES)
            told = elsewhere.find(request)
        except Error:
            return None
        session = self._sessions.get(call.session_handle)
        prepared = None if session is None else session.steps.exact.get(call.key)
        if (
            session is None
            or prepared is None
            or call.partial_run_handle
            or call.feed_datatypes != prepared.feed_types
            or prepared.options.wants_metadata
            or (told is not None and (told.tensors or prepared.gives_large))
            or not self._runs_here(prepared.step, call.feed_values)
        ):
            return None
        try:
            if call.request_id:
                self._check_id(call.request_id, "RunStep (Master)", call.session_handle)
            prepared.entry.used = True
            outputs = _run_now(session, prepared, call.feed_values)
            if told is None:
                return prepared.plan.encode(outputs, None, True)
            kept, more = self._tensors.give_at_once(told, outputs)
            prepared.gives_large = bool(more)
            return _joined(prepared.plan.encode(kept, None, not more), more)
        except Exception as error:
            return _failed_step(call, error)

    async def run_step(self, request: bytes, context: Any) -> Answer:
        """RunStep."""
        began = asyncio.get_running_loop().time()
        try:
            call = await self._scan(scan_run_step, request)
        except Error as error:
            part = getattr(error, "call", None)  # what could be read of the request, when a feed is at fault
            if part is None:
                raise
            return _failed_step(part, error)
        feeds: Feeds | None = None
        try:
            if call.request_id:
                self._check_id(call.request_id, "RunStep (Master)", call.session_handle)
            session = self._sessions.get(call.session_handle)
            if session is None:
                session = self.master.session(call.session_handle)  # says that it is not there
            told = elsewhere.find(request)
            values = call.feed_values
            if told is not None and told.tensors:
                feeds = await self._tensors.take(told, values, call.feed_datatypes, call.feed_names)
                if feeds is None:
                    return elsewhere.REFUSED
                values = feeds.values
            if call.partial_run_handle:
                return await self._run_partially(session, call, values, told, began)
            prepared = session.steps.exact.get(call.key)
            if prepared is None:
                prepared = await self._prepare(session, call)
            if call.feed_datatypes != prepared.feed_types:
                raise session.wrong_feed(prepared, call.feed_datatypes)
            prepared.entry.used = True
            outputs, metadata = await self._run_prepared(session, prepared, values, began)
            kept, more = await self._give(told, outputs)
            return _joined(prepared.plan.encode(kept, metadata, not more), more)
        except Exception as error:
            return _failed_step(call, error)
        finally:
            if feeds is not None:
                feeds.release()

    async def _give(self, told: Elsewhere | None, outputs: Sequence[Any]) -> tuple[Sequence[Any], bytes]:
        """Return the fetches that stay in the answer's message, and what is put behind it for the others."""
        return (outputs, b"") if told is None else await self._tensors.give(told, outputs)

    async def _scan(self, scan: Callable[..., _T], request: bytes) -> _T:
        """Read a step's message, in a thread where that may take long."""
        if len(request) <= _LOOP_MESSAGE_BYTES:
            try:
                return scan(request, _LOOP_FEED_BYTES)
            except ResourceExhausted:
                pass  # too much for the loop; whether it is too much at all is seen below
        return await self._in_thread(True, lambda: self._scan_here(scan, request))

    def _scan_here(self, scan: Callable[..., _T], request: bytes) -> _T:
        """Read a step's message; its feeds may take as much memory as a step may hold."""
        limit = self.master.step_memory_limit
        with MemoryBound(limit) as bound:
            try:
                return scan(request, min(limit, DEFAULT_MAX_BYTES) if limit else None)
            except Error:
                raise
            except MemoryError:
                raise bound.refusal("the step's feeds") or ResourceExhausted("out of memory for the feeds") from None

    async def _prepare(self, session: MasterSession, call: RunStepCall) -> PreparedStep:
        from runtime.master.steps import StepOptions

        options = StepOptions.parse(call.options)
        feeds, fetches, targets = call.feed_names, call.fetches, call.targets
        pending = session.steps.pending(feeds, fetches, targets)
        if pending is not None:  # a thread is compiling it for another request: do not block one more with waiting
            await asyncio.shield(asyncio.wrap_future(pending))

        def prepare() -> PreparedStep:
            return session.steps.prepare(call.key, feeds, fetches, targets, options)

        if session.steps.knows(feeds, fetches, targets):
            return prepare()
        return await self._compile(session, prepare)

    async def _compile(self, session: MasterSession, work: Callable[[], _T]) -> _T:
        """Compile something of a session's graph: at once when it takes next to nothing, in a thread otherwise."""
        from runtime.step.fold import Hurry, TooLong

        if len(session.graph.nodes) <= _LARGE_GRAPH_NODES:
            try:
                with Hurry(_LOOP_COMPILE_S, _LOOP_COMPILE_BYTES):
                    return work()
            except TooLong:
                pass
        return await self._in_thread(True, work)

    async def _run_prepared(
        self, session: MasterSession, prepared: PreparedStep, feeds: Sequence[Any], began: float
    ) -> tuple[list[Any], bytes | None]:
        """Run a step wherever it is best run: outputs and serialized RunMetadata."""
        if self._runs_here(prepared.step, feeds) and not prepared.options.wants_metadata:
            return _run_now(session, prepared, feeds), None
        return await self._run(session, prepared, feeds, began)

    async def _run(
        self, session: MasterSession, prepared: PreparedStep, feeds: Sequence[Any], began: float
    ) -> tuple[list[Any], bytes | None]:
        """Run a step that may take long or wait: outputs and serialized RunMetadata.

        Its limit counts from `began`, on the loop's clock: reading and compiling take their share of it.
        """
        from runtime.master.metadata import step_metadata

        waiting = _Waiting()
        number = session.number_to_wait_for(prepared)
        if number is not None:
            await asyncio.wrap_future(number)
        step = session.begin(prepared)
        session.start(prepared, step, feeds, waiting.done)
        outputs = await waiting.result(session, step, session.timeout_s(prepared.options), began)
        metadata = step_metadata(session, prepared.selection, prepared.options, step)
        return outputs, None if metadata is None else metadata.SerializeToString()

    # Partial runs

    async def partial_run_setup(self, request: bytes, context: Any) -> bytes:
        """PartialRunSetup."""
        message = await self._parse(wire.PartialRunSetupRequest, request)
        self._check_id(message.request_id, "PartialRunSetup (Master)", message.session_handle)
        session = self.master.session(message.session_handle)
        feeds, fetches, targets = tuple(message.feed), tuple(message.fetch), tuple(message.target)
        began = asyncio.get_running_loop().time()
        handle = await self._compile(session, lambda: session.partial_runs.setup(feeds, fetches, targets))
        waiting = _Waiting()
        step = session.partial_runs.context(handle)
        session.partial_runs.prepare(handle, lambda error: waiting.done(None, error))
        try:
            await waiting.result(session, step, session.config.operation_timeout_s, began)
        except asyncio.CancelledError:
            session.partial_runs.drop(handle, Cancelled(RPC_CANCELLED))
            raise
        return wire.PartialRunSetupResponse(partial_run_handle=handle).SerializeToString()

    async def _run_partially(self, session: MasterSession, call: RunStepCall, values: list[Any],
                             told: Elsewhere | None, began: float) -> bytes:
        from runtime.master.steps import StepOptions

        options = StepOptions.parse(call.options)
        if options.collective_key:
            raise InvalidArgument(
                "PartialRun does not support Collective ops.  collective_graph_key must be kNoCollectiveGraphKey."
            )
        handle = call.partial_run_handle
        step = session.partial_runs.context(handle)
        fetches = tuple(dict.fromkeys(call.fetches))
        waiting = _Waiting()
        ended = []

        def done(outputs: list[Any] | None, error: BaseException | None, last: bool) -> None:
            ended.append(last)
            waiting.done(outputs, error)

        session.partial_runs.run(handle, call.feed_names, values, call.feed_datatypes, fetches, done)
        try:
            outputs = await waiting.result(session, step, session.timeout_s(options), began)
        except asyncio.CancelledError:
            session.partial_runs.drop(handle, Cancelled(RPC_CANCELLED))
            raise
        kept, more = await self._give(told, outputs)
        return encode_run_step_response(fetches, kept, None, b"" if ended[0] else None) + more

    # Callables

    async def make_callable(self, request: bytes, context: Any) -> bytes:
        """MakeCallable."""
        message = await self._parse(wire.MakeCallableRequest, request)
        self._check_id(message.request_id, "MakeCallable (Master)", message.session_handle)
        session = self.master.session(message.session_handle)
        handle = await self._compile(session, lambda: session.callables.make(message.options))
        return wire.MakeCallableResponse(handle=handle).SerializeToString()

    def run_callable_at_once(self, request: bytes, context: Any) -> Answer | None:
        """RunCallable, where the callable waits for nothing and is short; None, without any effect, for all else."""
        if len(request) > _LOOP_MESSAGE_BYTES:
            return None
        try:
            session_handle, handle, feeds, request_id = scan_run_callable(request, _LOOP_FEED_BYTES)
            told = elsewhere.find(request)
            session = self.master.session(session_handle)
            prepared = session.callables.find(handle)
            session.check_feeds(prepared, feeds)
        except Error:
            return None  # the asynchronous form makes the checks in their order
        if prepared.options.wants_metadata or not self._runs_here(prepared.step, feeds):
            return None
        if told is not None and (told.tensors or prepared.gives_large):
            return None
        self._check_id(request_id, "RunCallable (Master)", session_handle)
        outputs: Sequence[Any] = _run_now(session, prepared, feeds)
        more = b""
        if told is not None:
            outputs, more = self._tensors.give_at_once(told, outputs)
            prepared.gives_large = bool(more)
        return _joined(encode_run_callable_response(outputs, prepared.plan.datatypes, None, not more), more)

    async def run_callable(self, request: bytes, context: Any) -> Answer:
        """RunCallable."""
        began = asyncio.get_running_loop().time()
        session_handle, handle, feeds, request_id = await self._scan(scan_run_callable, request)
        self._check_id(request_id, "RunCallable (Master)", session_handle)
        session = self.master.session(session_handle)
        prepared = session.callables.find(handle)
        session.check_feeds(prepared, feeds)
        told = elsewhere.find(request)
        taken: Feeds | None = None
        if told is not None and told.tensors:
            taken = await self._tensors.take(told, feeds, prepared.feed_types, prepared.feed_names)
            if taken is None:
                return elsewhere.REFUSED
            feeds = taken.values
        try:
            outputs, metadata = await self._run_prepared(session, prepared, feeds, began)
            kept, more = await self._give(told, outputs)
            return _joined(encode_run_callable_response(kept, prepared.plan.datatypes, metadata, not more), more)
        finally:
            if taken is not None:
                taken.release()

    async def release_callable(self, request: bytes, context: Any) -> bytes:
        """ReleaseCallable; one that does not exist is fine."""
        message = await self._parse(wire.ReleaseCallableRequest, request)
        self.master.session(message.session_handle).callables.release(message.handle)
        return b""

    async def _parse(self, kind: type[_M], request: bytes) -> _M:
        if len(request) <= LARGE_BYTES:
            return parse(kind, request)
        return await self._in_thread(True, lambda: parse_in_pieces(kind, request))

    async def in_thread(self, work: Callable[[], _T]) -> _T:
        """Do some work in a thread; for others of this plane."""
        return await self._in_thread(True, work)

    async def _in_thread(self, large: bool, work: Callable[[], _T]) -> _T:
        """Do some work at once, or in a thread when it is large."""
        if not large:
            return work()
        return await asyncio.wrap_future(self._threads.submit(work))


def _time_left(context: Any) -> float | None:
    """Return the seconds until a call's deadline; None when it has none."""
    left: float | None = None if context is None else context.time_remaining()
    return left


def _joined(answer: Answer, more: bytes) -> Answer:
    """Return an answer with what is put behind it; one in parts has nothing."""
    return bytes(answer) + more if more else answer


def _failed_step(call: RunStepCall, error: Exception) -> bytes:
    """Return the answer of a failed RunStep whose client wants errors in the body; raise the error otherwise."""
    if not isinstance(error, Error):
        logger.error("a RunStep failed with an error of the wrong kind", exc_info=error)
        fault = Internal(f"{type(error).__name__}: {error}")
        fault.__cause__ = error
        error = fault
    if call.store_errors_in_response_body:
        return encode_run_step_error(error.code, error.message, b"")
    raise error


def _run_now(session: MasterSession, prepared: PreparedStep, feeds: Sequence[Any]) -> list[Any]:
    """Run a short step in the loop's thread."""
    step = session.begin(prepared, at_once=True)
    try:
        return prepared.arrange_fetches(session.runner.run(prepared.step, step, prepared.arrange_feeds(feeds)))
    except Exception as error:
        raise session.blame(step, error, [name for name, *_ in prepared.selection.fetches]) from error
    finally:
        session.end(step)


class _Waiting:
    """A step's answer, from whichever thread, for the coroutine that waits for it."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._future: asyncio.Future[list[Any]] | None = self._loop.create_future()

    def done(self, outputs: list[Any] | None, error: BaseException | None) -> None:
        """Take the answer; from any thread."""
        try:
            self._loop.call_soon_threadsafe(self._settle, outputs, error)
        except RuntimeError:
            # The loop has closed: the server stopped, and nobody waits any more.
            logger.debug("a step ended after the loop that had asked for it")

    def _settle(self, outputs: list[Any] | None, error: BaseException | None) -> None:
        future = self._future
        if future is None or future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(outputs or [])

    async def result(self, session: MasterSession, step: StepContext, timeout_s: float, began: float) -> list[Any]:
        """Return the outputs; cancel the step when its time is up or the client has gone."""
        timer = None
        if timeout_s:
            timer = self._loop.call_at(began + timeout_s, lambda: session.cancel(step, timed_out(timeout_s, step)))
        try:
            assert self._future is not None
            return await self._future
        except asyncio.CancelledError:
            session.cancel(step, Cancelled(RPC_CANCELLED))
            raise
        finally:
            # Whoever called `done` may know this object for longer, and an error the frames it went through: tensors
            # would stay until the garbage collector comes.
            self._future = None
            if timer is not None:
                timer.cancel()


async def _until_closed(session: MasterSession, closing: Future[None], wait_s: float = CLOSE_WAIT_S) -> None:
    """Wait until a closing session runs nothing any more, or give it up."""
    try:
        await asyncio.wait_for(asyncio.shield(asyncio.wrap_future(closing)), wait_s)
    except TimeoutError:
        session.abandon()
