"""The table of compiled steps: spellings, sharing, its bound, failures, and one compile at a time."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import Any

import pytest

from runtime import wire
from runtime.errors import Aborted, InvalidArgument, Unimplemented
from runtime.master.request_ids import RequestIds
from runtime.master.steps import PreparedStep, StepOptions, StepTable, canonical


@dataclass
class Step:
    """What the table needs of a compiled step: its types."""

    feed_types: tuple[int, ...]
    fetch_types: tuple[int, ...]
    blocking: bool = False


class Compiler:
    """Compiles into `Step`: a name's type is its last digit."""

    def __init__(self) -> None:
        self.signatures: list[Any] = []
        self.gate = threading.Event()
        self.gate.set()

    def __call__(self, signature: Any) -> Any:
        self.signatures.append(signature)
        assert self.gate.wait(10)
        feeds, fetches, _ = signature
        if "bad" in feeds:
            raise InvalidArgument("bad feed")
        return None, Step(tuple(int(name[-1]) for name in feeds), tuple(int(name[-1]) for name in fetches))


def prepare(
    table: StepTable, feeds: str = "", fetches: str = "", targets: str = "", options: StepOptions | None = None
) -> PreparedStep:
    names = [tuple(text.split()) for text in (feeds, fetches, targets)]
    options = options or StepOptions()
    return table.prepare((*names, options), *names, options)


def test_spellings_of_a_signature_share_one_compiled_step() -> None:
    compiler = Compiler()
    table = StepTable(10, compiler)
    first = prepare(table, "b1 a2", "y3 x4 y3", "t s t")
    second = prepare(table, "a2 b1", "x4 y3", "s t")
    assert compiler.signatures == [(("a2", "b1"), ("x4", "y3"), ("s", "t"))]
    assert first.step is second.step
    assert first.feed_types == [1, 2]
    assert first.arrange_feeds(["for b", "for a"]) == ["for a", "for b"]
    assert first.plan.names == ("y3", "x4")
    assert first.plan.datatypes == (3, 4)
    assert first.arrange_fetches(["x", "y"]) == ["y", "x"]
    assert second.arrange_fetches(["x", "y"]) == ["x", "y"]


def test_an_exact_key_finds_its_step_again() -> None:
    table = StepTable(10, Compiler())
    made = prepare(table, "a1", "x1")
    assert table.exact[("a1",), ("x1",), (), StepOptions()] is made


def test_options_make_another_entry_but_no_other_step() -> None:
    compiler = Compiler()
    table = StepTable(10, compiler)
    plain = prepare(table, "", "x1")
    traced = prepare(table, "", "x1", options=StepOptions(trace=True))
    assert traced.step is plain.step
    assert traced.options.wants_metadata and not plain.options.wants_metadata
    assert len(compiler.signatures) == 1


def test_a_duplicate_feed_stays_visible_to_the_checks() -> None:
    assert canonical(("x", "x"), ("y",), ()) == (("x", "x"), ("y",), ())


def test_the_bound_holds_and_spares_what_is_used() -> None:
    compiler = Compiler()
    table = StepTable(4, compiler)
    favourite = prepare(table, "", "keep1")
    for index in range(40):
        prepare(table, "", f"x{index}")
        favourite.entry.used = True
        assert len(table) <= 4
        assert len(table.exact) <= 4
    assert prepare(table, "", "keep1").step is favourite.step
    assert len(compiler.signatures) == 41


def test_spellings_of_one_signature_are_bounded_too() -> None:
    table = StepTable(4, Compiler())
    for index in range(500):
        prepare(table, "", "x1", options=StepOptions(timeout_s=float(index + 1)))
    assert len(table.exact) <= 64


def test_a_failure_is_told_and_forgotten() -> None:
    compiler = Compiler()
    table = StepTable(4, compiler)
    for _ in range(2):
        with pytest.raises(InvalidArgument, match="bad feed"):
            prepare(table, "bad", "x1")
    assert len(compiler.signatures) == 2
    assert len(table) == 0
    assert table.exact == {}


@pytest.mark.parametrize("feeds", ["", "bad"])
def test_threads_that_ask_together_compile_once(feeds: str) -> None:
    compiler = Compiler()
    compiler.gate.clear()
    table = StepTable(4, compiler)
    results: list[Any] = []

    def ask() -> None:
        try:
            results.append(prepare(table, feeds, "x1").step)
        except InvalidArgument as error:
            results.append(str(error))

    threads = [threading.Thread(target=ask) for _ in range(6)]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 10
    while not compiler.signatures:
        assert time.monotonic() < deadline
    names = (tuple(feeds.split()), ("x1",), ())
    assert table.pending(*names) is not None
    assert not table.knows(*names)
    pending = table.pending(*names)
    while len(pending._condition._waiters) < len(threads) - 1:  # all but the one that compiles
        assert time.monotonic() < deadline
        time.sleep(0.001)
    compiler.gate.set()
    for thread in threads:
        thread.join(10)
    assert len(compiler.signatures) == 1
    assert len(results) == 6
    assert len({str(result) for result in results}) == 1
    assert table.pending(*names) is None
    assert table.knows(*names) is (feeds == "")


def test_a_table_full_of_pending_steps_lets_one_more_in() -> None:
    compiler = Compiler()
    compiler.gate.clear()
    table = StepTable(1, compiler)
    threads = [threading.Thread(target=prepare, args=(table, "", f"x{index}")) for index in range(3)]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 10
    while len(compiler.signatures) < 3:
        assert time.monotonic() < deadline
    compiler.gate.set()
    for thread in threads:
        thread.join(10)
    prepare(table, "", "x9")
    assert len(table) == 1


def test_options_are_read_from_their_bytes() -> None:
    assert StepOptions.parse(None) == StepOptions.parse(b"") == StepOptions()
    options = wire.RunOptions(timeout_in_ms=1500, trace_level=wire.RunOptions.FULL_TRACE, output_partition_graphs=True)
    options.experimental.collective_graph_key = 4
    parsed = StepOptions.parse(options.SerializeToString())
    assert parsed == StepOptions(trace=True, partition_graphs=True, timeout_s=1.5, collective_key=4)
    software = wire.RunOptions(trace_level=wire.RunOptions.SOFTWARE_TRACE, timeout_in_ms=-3)
    assert StepOptions.parse(software.SerializeToString()) == StepOptions()
    with pytest.raises(InvalidArgument, match="RunOptions"):
        StepOptions.parse(b"\xff")
    options.debug_options.debug_tensor_watch_opts.add()
    with pytest.raises(Unimplemented, match="debug_options"):
        StepOptions.parse(options.SerializeToString())


def test_the_ring_of_request_ids_forgets_the_oldest() -> None:
    ids = RequestIds(3)
    for number in (1, -2, 3):
        ids.check(number, "RunStep (Master)", "h")
    with pytest.raises(Aborted) as caught:
        ids.check(-2, "RunStep (Master)", "h")
    assert str(caught.value) == (
        'The same RunStep (Master) request was received twice. session_handle: "h" request_id: -2'
    )
    ids.check(4, "RunStep (Master)", "h")
    ids.check(1, "RunStep (Master)", "h")
    assert len(ids) == 3
    for _ in range(2):
        ids.check(0, "RunStep (Master)", "h")


def test_one_of_many_threads_gets_a_request_id() -> None:
    ids = RequestIds()
    won: list[int] = []

    def race() -> None:
        for number in range(1, 2000):
            try:
                ids.check(number, "RunStep (Master)", "h")
            except Aborted:
                continue
            won.append(number)

    threads = [threading.Thread(target=race) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(won) == list(range(1, 2000))
