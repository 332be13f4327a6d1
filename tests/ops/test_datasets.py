"""Datasets where something waits, runs ahead, never ends or goes wrong; their values are in tests/interop."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runtime import wire
from runtime._ext.executor import StepContext
from runtime.dtypes import DataType
from runtime.errors import Cancelled, DeadlineExceeded, Error, OutOfRange, PermissionDenied, ResourceExhausted
from runtime.master.master import Master
from runtime.master.session import MasterSession
from runtime.master.task import Task
from runtime.ops.datasets.iterators import ITERATOR
from runtime.ops.queues import QUEUE
from runtime.step.files import FileAccess
from runtime.step.runner import StepRunner
from tests.leaks import open_descriptors
from tests.step.maker import GraphMaker, function, set_attr

WAIT_S = 10.0
INT64, BOOL, STRING = DataType.INT64, DataType.BOOL, DataType.STRING
HUGE = 1 << 60


class Pipelines(GraphMaker):
    """Datasets of int64 scalars, and an iterator over each."""

    def dataset(self, op: str, name: str, *inputs: str, kind: DataType = INT64, **attrs: Any) -> str:
        """Add a dataset's node; numbers among the inputs become constants."""
        names = [text if isinstance(text, str) else self.const(f"{name}/{place}", np.asarray(text))
                 for place, text in enumerate(inputs)]
        node = self._nodes.add(name=name, op=op, input=names)
        if op not in ("TFRecordDataset", "TextLineDataset"):
            set_attr(node.attr, "output_types", [kind])
            node.attr["output_shapes"].list.shape.add()
        for attr, value in attrs.items():
            if value == []:
                node.attr[attr].list.SetInParent()
            else:
                set_attr(node.attr, attr, value)
        return name

    def numbers(self, count: int, name: str = "numbers") -> str:
        return self.dataset("RangeDataset", name, np.int64(0), np.int64(count), np.int64(1))

    def map(self, name: str, source: str, body: str, calls: int = 0) -> str:
        if calls:
            return self.dataset("ParallelMapDatasetV2", name, source, np.int64(calls), f=function(body), Targuments=[])
        return self.dataset("MapDataset", name, source, f=function(body), Targuments=[])

    def filter(self, name: str, source: str, body: str) -> str:
        return self.dataset("FilterDataset", name, source, predicate=function(body), Targuments=[])

    def sized(self, op: str, name: str, source: str, *sizes: int) -> str:
        return self.dataset(op, name, source, *(np.int64(size) for size in sizes))

    def iterate(self, dataset: str, kind: DataType = INT64) -> None:
        """Add an iterator: the nodes ``start`` and ``next``."""
        self.dataset("IteratorV2", "iterator", kind=kind, shared_name="", container="")
        self.call("MakeIterator", "start", dataset, "iterator")
        self.dataset("IteratorGetNext", "next", "iterator", kind=kind)

    def never(self) -> str:
        """Add a predicate that holds for nothing."""
        body = self.function("never", {"x": INT64}, {"y": ("less:z:0", BOOL)})
        body.const("zero", np.int64(0))
        body.op("Less", "less", "x", "zero:output:0", T=INT64)
        return "never"

    def counted(self) -> str:
        """Add a function that hands on its argument and counts its calls in the variable ``count``."""
        self.variable(self)
        self.op("AssignVariableOp", "reset", "count", self.const("zero", np.int64(0)), T=INT64)
        self.op("ReadVariableOp", "calls", "count", T=INT64)
        body = self.function("counted", {"x": INT64}, {"y": ("same:output:0", INT64)}, ["add"])
        self.variable(body)
        body.const("one", np.int64(1))
        body.op("AssignAddVariableOp", "add", "count:resource:0", "one:output:0", T=INT64)
        body.op("Identity", "same", "x", "^add", T=INT64)
        return "counted"

    @staticmethod
    def variable(maker: GraphMaker) -> None:
        maker.op("VarHandleOp", "count", T=INT64, shape=(), shared_name="count", container="")

    def waiting(self) -> str:
        """Add a function that adds its argument to what it takes from a queue; ``put`` puts a fed value in."""
        self.queue(self)
        self.placeholder("value", INT64)
        self.call("QueueEnqueueV2", "put", "queue", "value", Tcomponents=[INT64])
        body = self.function("waiting", {"x": INT64}, {"y": ("add:z:0", INT64)})
        self.queue(body)
        body.call("QueueDequeueV2", "take", "queue:handle:0", component_types=[INT64])
        body.op("AddV2", "add", "x", "take:components:0", T=INT64)
        return "waiting"

    @staticmethod
    def queue(maker: GraphMaker) -> None:
        maker.call("FIFOQueueV2", "queue", component_types=[INT64], shared_name="queue", container="")

    def slow(self) -> str:
        """Add a function that loops for a long time, in kernels."""
        body = self.function("slow", {"x": INT64}, {"y": ("loop:output:0", INT64)})
        body.call("While", "loop", "x", T=[INT64], cond=function("forever"), body=function("onwards"))
        cond = self.function("forever", {"x": INT64}, {"y": ("less:z:0", BOOL)})
        cond.const("limit", np.int64(HUGE))
        cond.op("Less", "less", "x", "limit:output:0", T=INT64)
        onwards = self.function("onwards", {"x": INT64}, {"y": ("add:z:0", INT64)})
        onwards.const("one", np.int64(1))
        onwards.op("AddV2", "add", "x", "one:output:0", T=INT64)
        return "slow"


@pytest.fixture
def master(tmp_path: Path) -> Iterator[Master]:
    with StepRunner(4) as runner:
        made = Master(Task("local", files=FileAccess([tmp_path])), runner=runner)
        yield made
        made.close()


@pytest.fixture
def opened(master: Master) -> Callable[[Pipelines], MasterSession]:
    """Return a function that opens a session on a graph and starts its iterator."""

    def open_session(graph: Pipelines, start: bool = True) -> MasterSession:
        handle, _ = master.create_session(graph.proto)
        session = master.session(handle)
        if start:
            session.run({}, [], ["start"])
        return session

    return open_session


Open = Callable[..., MasterSession]


def following(session: MasterSession, timeout_ms: int = 0) -> int:
    options = wire.RunOptions(timeout_in_ms=timeout_ms) if timeout_ms else None
    return int(session.run({}, ["next:0"], [], options)[0][0])


def rest(session: MasterSession) -> list[int]:
    found = []
    while True:
        try:
            found.append(following(session))
        except OutOfRange as error:
            assert "End of sequence" in error.message
            return found


def eventually(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not holds():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.005)


def takers(session: MasterSession) -> int:
    """Return how many calls of `Pipelines.waiting` wait for a value."""
    resources = session.state.resources
    places = [place for place in resources.listing() if place[1:] == (QUEUE, "queue")]
    return len(resources.lookup(*places[0])._dequeues) if places else 0  # made with the first call


class Asking:
    """A call of `following` in a thread."""

    def __init__(self, session: MasterSession, timeout_ms: int = 0) -> None:
        self.outcome: Any = None
        self._thread = threading.Thread(target=self._run, args=(session, timeout_ms), daemon=True)
        self._thread.start()

    def _run(self, session: MasterSession, timeout_ms: int) -> None:
        try:
            self.outcome = following(session, timeout_ms)
        except Error as error:
            self.outcome = error

    @property
    def waits(self) -> bool:
        return self._thread.is_alive()

    def end(self) -> Any:
        self._thread.join(WAIT_S)
        assert not self._thread.is_alive(), "no answer"
        return self.outcome


def endless(kind: str) -> Pipelines:
    """Return a pipeline that works without end and gives nothing."""
    graph = Pipelines()
    source = graph.numbers(HUGE)
    if kind == "filter":
        graph.iterate(graph.filter("none", source, graph.never()))
    elif kind == "filter read ahead":
        graph.iterate(graph.sized("PrefetchDataset", "ahead", graph.filter("none", source, graph.never()), 3))
    elif kind == "filter mapped in parallel":
        none = graph.filter("none", source, graph.never())
        graph.counted()
        graph.iterate(graph.map("mapped", none, "counted", calls=3))
    elif kind == "loop":
        graph.iterate(graph.map("looped", source, graph.slow()))
    elif kind == "loop in parallel":
        graph.iterate(graph.map("looped", source, graph.slow(), calls=3))
    elif kind == "batch":
        graph.iterate(graph.dataset("BatchDatasetV2", "batch", graph.filter("none", source, graph.never()),
                                    np.int64(2), np.bool_(False)))
    elif kind == "skip":
        graph.counted()
        graph.iterate(graph.sized("SkipDataset", "skipped", graph.filter("none", source, graph.never()), 5))
    elif kind == "ignored errors":
        missing = graph.dataset("TextLineDataset", "lines", np.array(b"missing", object), np.array(b"", object),
                                np.int64(0))
        graph.iterate(graph.dataset("IgnoreErrorsDataset", "ignored", missing, kind=STRING), STRING)
    else:
        assert kind == "shuffle"
        graph.iterate(graph.dataset("ShuffleDataset", "shuffled", graph.filter("none", source, graph.never()),
                                    np.int64(9), np.int64(1), np.int64(1)))
    return graph


ENDLESS = ("filter", "filter read ahead", "filter mapped in parallel", "loop", "loop in parallel", "batch", "skip",
           "ignored errors", "shuffle")


@pytest.mark.parametrize("kind", ENDLESS)
def test_work_without_end_ends_with_its_step(opened: Open, kind: str) -> None:
    session = opened(endless(kind))
    started = time.monotonic()
    with pytest.raises(DeadlineExceeded):
        following(session, timeout_ms=100)
    assert time.monotonic() - started < 3
    with pytest.raises(DeadlineExceeded):  # and so does the next
        following(session, timeout_ms=20)


@pytest.mark.parametrize("kind", ENDLESS)
def test_work_without_end_ends_with_its_session(master: Master, opened: Open, kind: str) -> None:
    session = opened(endless(kind))
    asking = Asking(session)
    other = Pipelines()
    other.iterate(other.numbers(3))
    assert rest(opened(other)) == [0, 1, 2]  # others get their turn meanwhile
    assert asking.waits
    master.close_session(session.handle).result(WAIT_S)
    assert isinstance(asking.end(), Cancelled)


def test_elements_that_wait_hold_no_thread(opened: Open) -> None:
    graph = Pipelines()
    graph.iterate(graph.map("mapped", graph.numbers(100), graph.waiting()))
    sessions = [opened(graph) for _ in range(30)]
    asking = [Asking(session) for session in sessions]  # these threads are the test's
    eventually(lambda: takers(sessions[0]) == 30)
    workers = [thread for thread in threading.enumerate() if thread.name.startswith("step-")]
    assert len(workers) < 20
    for number in range(30):
        sessions[0].run({"value:0": np.int64(number)}, [], ["put"])
    assert sorted(one.end() for one in asking) == list(range(30))


def test_a_cancelled_step_leaves_the_iterator_usable(opened: Open) -> None:
    graph = Pipelines()
    graph.iterate(graph.map("mapped", graph.numbers(100), graph.waiting()))
    session = opened(graph)
    with pytest.raises(DeadlineExceeded):
        following(session, timeout_ms=50)
    session.run({"value:0": np.int64(10)}, [], ["put"])
    assert following(session) == 11  # the first element was under way when its step ended


def test_a_step_behind_a_cancelled_one_gets_the_next_element(opened: Open) -> None:
    graph = Pipelines()
    graph.iterate(graph.map("mapped", graph.numbers(100), graph.waiting()))
    session = opened(graph)
    first = Asking(session, timeout_ms=300)
    eventually(lambda: takers(session) == 1)
    second = Asking(session)
    assert isinstance(first.end(), DeadlineExceeded)
    assert second.waits
    session.run({"value:0": np.int64(10)}, [], ["put"])
    assert second.end() == 11


@pytest.mark.parametrize("calls", [1, 3, 8])
def test_waiting_calls_run_side_by_side_up_to_the_limit(opened: Open, calls: int) -> None:
    graph = Pipelines()
    graph.iterate(graph.map("mapped", graph.numbers(20), graph.waiting(), calls=calls))
    graph.call("QueueSizeV2", "size", "queue")
    session = opened(graph)
    asking = Asking(session)
    eventually(lambda: takers(session) == calls)
    for _ in range(calls + 4):
        session.run({"value:0": np.int64(0)}, [], ["put"])
    assert asking.end() == 0
    # Every call that was under way has taken a value; there is room for one result in place of the one that was given.
    eventually(lambda: int(session.run({}, ["size:0"])[0][0]) <= 4)
    time.sleep(0.05)
    assert int(session.run({}, ["size:0"])[0][0]) >= 3


@pytest.mark.parametrize("capacity", [1, 2, 10])
def test_prefetching_stops_when_its_buffer_is_full(opened: Open, capacity: int) -> None:
    graph = Pipelines()
    graph.iterate(graph.sized("PrefetchDataset", "ahead", graph.map("mapped", graph.numbers(1000), graph.counted()),
                              capacity))
    session = opened(graph, start=False)
    session.run({}, [], ["reset"])
    session.run({}, [], ["start"])
    assert following(session) == 0

    def calls() -> int:
        return int(session.run({}, ["calls:0"])[0][0])

    eventually(lambda: calls() >= capacity)
    time.sleep(0.05)
    assert capacity <= calls() <= capacity + 1
    assert [following(session) for _ in range(20)] == list(range(1, 21))
    eventually(lambda: calls() >= 21)
    time.sleep(0.05)
    assert calls() <= 21 + capacity


def test_reading_ahead_stops_when_the_session_closes(master: Master, opened: Open) -> None:
    graph = Pipelines()
    graph.iterate(graph.sized("PrefetchDataset", "ahead", graph.map("mapped", graph.numbers(HUGE), graph.counted()),
                              HUGE))
    session, watching = opened(graph, start=False), opened(graph, start=False)
    session.run({}, [], ["reset"])
    session.run({}, [], ["start"])
    following(session)
    master.close_session(session.handle).result(WAIT_S)

    def calls() -> int:
        return int(watching.run({}, ["calls:0"])[0][0])

    def stands() -> bool:
        before = calls()
        time.sleep(0.05)
        return calls() == before

    eventually(stands)


def test_steps_that_ask_at_once_share_the_elements(opened: Open) -> None:
    graph = Pipelines()
    graph.iterate(graph.map("mapped", graph.numbers(400), graph.counted()))
    session = opened(graph, start=False)
    session.run({}, [], ["reset"])
    session.run({}, [], ["start"])
    found: list[list[int]] = [[] for _ in range(8)]
    threads = [threading.Thread(target=lambda mine=mine: mine.extend(rest(session))) for mine in found]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_S)
    assert sorted(number for mine in found for number in mine) == list(range(400))
    assert all(mine == sorted(mine) for mine in found)


def test_sizes_that_nothing_reaches_cost_nothing(opened: Open) -> None:
    for add in (
        lambda graph, source: graph.sized("PrefetchDataset", "d", source, HUGE),
        lambda graph, source: graph.dataset("ShuffleDataset", "d", source, np.int64(HUGE), np.int64(1), np.int64(1)),
        lambda graph, source: graph.sized("TakeDataset", "d", source, HUGE),
        lambda graph, source: graph.map("d", source, graph.counted(), calls=HUGE),
        lambda graph, source: graph.sized("SkipDataset", "d", graph.sized("RepeatDataset", "r", source, HUGE), 5),
    ):
        graph = Pipelines()
        graph.iterate(add(graph, graph.numbers(5)))
        session = opened(graph, start=False)
        if "counted" in [made.signature.name for made in graph.proto.library.function]:
            session.run({}, [], ["reset"])
        session.run({}, [], ["start"])
        assert sorted(following(session) for _ in range(5)) == [0, 1, 2, 3, 4]


def test_skipping_in_a_range_takes_no_time(opened: Open) -> None:
    graph = Pipelines()
    graph.iterate(graph.sized("SkipDataset", "skipped", graph.numbers(HUGE), HUGE - 2))
    assert rest(opened(graph)) == [HUGE - 2, HUGE - 1]


def test_datasets_in_each_other_without_measure_are_refused(opened: Open) -> None:
    graph = Pipelines()
    name = graph.numbers(3)
    for number in range(3000):
        name = graph.sized("TakeDataset", f"take{number}", name, 2)
    graph.iterate(name)
    with pytest.raises(ResourceExhausted, match="too deeply"):
        rest(opened(graph))


def test_files_are_read_only_where_that_is_allowed(opened: Open, tmp_path: Path) -> None:
    inside = tmp_path / "lines"
    inside.write_text("a\nb\n")

    def reading(path: str) -> MasterSession:
        graph = Pipelines()
        graph.iterate(graph.dataset("TextLineDataset", "lines", np.array(path.encode(), object),
                                    np.array(b"", object), np.int64(0)), STRING)
        return opened(graph)

    assert reading(str(inside)).run({}, ["next:0"])[0][0].item() == b"a"
    with pytest.raises(PermissionDenied, match="files_allow"):
        reading("/etc/hostname").run({}, ["next:0"])
    graph = Pipelines()
    graph.iterate(graph.dataset("CacheDataset", "cached", graph.numbers(3), np.array(b"/var/tmp/cache", object)))
    with pytest.raises(PermissionDenied, match="files_allow"):
        opened(graph)


def test_files_are_closed_when_the_iterator_starts_again_or_goes(
        master: Master, opened: Open, tmp_path: Path) -> None:
    path = tmp_path / "lines"
    path.write_text("a\n" * 1000)
    graph = Pipelines()
    lines = graph.dataset("TextLineDataset", "lines", np.array(str(path).encode(), object), np.array(b"", object),
                          np.int64(0))
    graph.iterate(graph.dataset("PrefetchDataset", "ahead", lines, np.int64(2), kind=STRING), STRING)
    session = opened(graph)

    def is_open() -> int:
        return sum(count for name, count in open_descriptors().items() if str(path) in name)

    session.run({}, ["next:0"])
    assert is_open() == 1
    for _ in range(5):
        session.run({}, [], ["start"])
        session.run({}, ["next:0"])
    eventually(lambda: is_open() == 1)
    master.close_session(session.handle).result(WAIT_S)
    eventually(lambda: is_open() == 0)


def test_an_iterator_that_starts_again_still_serves_who_waits(opened: Open) -> None:
    graph = Pipelines()
    graph.iterate(graph.map("mapped", graph.numbers(100), graph.waiting()))
    session = opened(graph)
    asking = Asking(session)
    eventually(lambda: takers(session) == 1)
    session.run({}, [], ["start"])
    assert asking.waits
    session.run({"value:0": np.int64(10)}, [], ["put"])
    assert asking.end() == 10
    session.run({"value:0": np.int64(20)}, [], ["put"])
    assert following(session) == 20


@pytest.mark.parametrize("loops", [False, True])
def test_only_functions_that_do_not_loop_run_where_an_element_is_asked_for(opened: Open, loops: bool) -> None:
    graph = Pipelines()
    body = graph.function("body", {"x": INT64}, {"y": ("loop:output:0" if loops else "x", INT64)})
    if loops:
        body.call("While", "loop", "x", T=[INT64], cond=function("negative"), body=function("same"))
        negative = graph.function("negative", {"x": INT64}, {"y": ("less:z:0", BOOL)})
        negative.const("limit", np.int64(0))
        negative.op("Less", "less", "x", "limit:output:0", T=INT64)
        graph.function("same", {"x": INT64}, {"y": ("x", INT64)})
    graph.iterate(graph.map("mapped", graph.numbers(1000), "body"))
    session = opened(graph)
    resources = session.state.resources
    iterator = resources.lookup(*next(place for place in resources.listing() if place[1] == ITERATOR))
    handed_over = 0

    def hand_over(work: Callable[[], object]) -> None:
        nonlocal handed_over
        handed_over += 1
        work()

    seen: list[int] = []
    for number in range(200):
        step = StepContext(number, session.state, None, hand_over)
        iterator.next(step, lambda element, error: seen.append(int(element[0])))
        step.close()
    assert seen == list(range(200))
    assert handed_over == 200 if loops else handed_over < 150


@pytest.mark.parametrize("ordered", ["true", "false"])
def test_long_calls_by_several_workers_lose_nothing(opened: Open, ordered: str) -> None:
    graph = Pipelines()
    # Counts down from a number that changes with the element, for a millisecond or so, and adds the element again.
    body = graph.function("long", {"x": INT64}, {"y": ("back:z:0", INT64)})
    body.const("spread", np.int64(7919))
    body.const("most", np.int64(601))
    body.op("Mul", "product", "x", "spread:output:0", T=INT64)
    body.op("FloorMod", "turns", "product:z:0", "most:output:0", T=INT64)
    body.call("While", "loop", "turns:z:0", T=[INT64], cond=function("positive"), body=function("less_one"))
    body.op("AddV2", "back", "x", "loop:output:0", T=INT64)
    positive = graph.function("positive", {"x": INT64}, {"y": ("greater:z:0", BOOL)})
    positive.const("zero", np.int64(0))
    positive.op("Greater", "greater", "x", "zero:output:0", T=INT64)
    less_one = graph.function("less_one", {"x": INT64}, {"y": ("minus:z:0", INT64)})
    less_one.const("one", np.int64(1))
    less_one.op("Sub", "minus", "x", "one:output:0", T=INT64)
    mapped = graph.dataset("ParallelMapDatasetV2", "mapped", graph.numbers(300), np.int64(4), f=function("long"),
                           Targuments=[], deterministic=ordered)
    graph.iterate(graph.sized("PrefetchDataset", "ahead", mapped, 3))
    session = opened(graph)
    for _ in range(2):
        session.run({}, [], ["start"])
        found = rest(session)
        assert (found if ordered == "true" else sorted(found)) == list(range(300))


@pytest.mark.parametrize("ordered", ["true", "false"])
def test_interleaved_datasets_read_ahead_lose_nothing(opened: Open, ordered: str) -> None:
    graph = Pipelines()
    inner = graph.function("inner", {"x": INT64}, {"y": ("range:handle:0", DataType.VARIANT)})
    inner.const("one", np.int64(1))
    inner.const("many", np.int64(100))
    inner.op("Mul", "start", "x", "many:output:0", T=INT64)
    inner.op("AddV2", "stop", "start:z:0", "x", T=INT64)
    node = inner._nodes.add(name="range", op="RangeDataset", input=["start:z:0", "stop:z:0", "one:output:0"])
    set_attr(node.attr, "output_types", [INT64])
    node.attr["output_shapes"].list.shape.add()
    graph.iterate(graph.dataset(
        "ParallelInterleaveDatasetV4", "interleaved", graph.numbers(40), np.int64(5), np.int64(2), np.int64(3),
        np.int64(0), np.int64(5), f=function("inner"), Targuments=[], deterministic=ordered))
    session = opened(graph)
    found = rest(session)
    assert sorted(found) == [number * 100 + place for number in range(40) for place in range(number)]
    for number in range(40):  # those of one dataset stay in order
        mine = [element for element in found if element // 100 == number]
        assert mine == sorted(mine)
    if ordered == "true":
        session.run({}, [], ["start"])
        assert rest(session) == found


def generator() -> Pipelines:
    """Return a generator that never ends, and counts in ``count`` how often it was cleaned up."""
    graph = Pipelines()
    graph.counted()
    same = graph.function("same", {"x": INT64}, {"y": ("same:output:0", INT64)})
    same.op("Identity", "same", "x", T=INT64)
    graph.const("first", np.int64(7))
    graph.iterate(graph.dataset(
        "GeneratorDataset", "generated", "first", init_func=function("same"), next_func=function("same"),
        finalize_func=function("counted"), Tinit_func_args=[INT64], Tnext_func_args=[], Tfinalize_func_args=[]))
    return graph


@pytest.mark.parametrize("end", ["another begins", "the session ends"])
def test_a_generator_that_nobody_reads_any_more_is_cleaned_up(opened: Open, master: Master, end: str) -> None:
    graph = generator()
    session, watching = opened(graph, start=False), opened(graph, start=False)
    session.run({}, [], ["reset"])
    session.run({}, [], ["start"])
    assert [following(session), following(session)] == [7, 7]
    assert int(watching.run({}, ["calls:0"])[0][0]) == 0
    if end == "another begins":
        session.run({}, [], ["start"])
    else:
        found = session.state.resources
        for place in [place for place in found.listing() if place[1] == ITERATOR]:
            found.delete(*place)
    eventually(lambda: int(watching.run({}, ["calls:0"])[0][0]) == 1)


def test_records_of_csv_files_may_be_long_and_lie_anywhere(opened: Open, tmp_path: Path) -> None:
    """Quoted fields go over many pieces of what is read at a time."""
    text = "x\n" * 100_000
    (tmp_path / "long.csv").write_text(f'"{text}",1\r"{text}",2\n', encoding="ascii")
    graph = Pipelines()
    names = [graph.const(f"in{place}", value) for place, value in enumerate((
        np.array([str(tmp_path / "long.csv").encode()], object), np.array(b"", object), np.int64(5), np.bool_(False),
        np.array(b",", object), np.bool_(True), np.array(b"", object), np.array([1], np.int64), np.zeros(0, np.int64),
        np.zeros(0, np.int64)))]
    graph.iterate(graph.dataset("CSVDatasetV2", "csv", *names))
    assert rest(opened(graph)) == [1, 2]


def test_csv_files_outside_the_allowed_folders_are_refused(opened: Open, tmp_path: Path) -> None:
    graph = Pipelines()
    names = [graph.const(f"in{place}", value) for place, value in enumerate((
        np.array([b"/etc/hostname"], object), np.array(b"", object), np.int64(5), np.bool_(False),
        np.array(b",", object), np.bool_(True), np.array(b"", object), np.zeros(0, np.int64), np.zeros(0, np.int64)))]
    graph.iterate(graph.dataset("CSVDataset", "csv", *names))
    with pytest.raises(PermissionDenied):
        following(opened(graph))
