"""Clients of a master that is frozen: ours are told within a bound, TensorFlow's when they have set themselves one."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import runtime
from runtime.client import tensor_roads
from runtime.errors import InvalidArgument, Unavailable
from tests.cluster_tasks import OURS, THEIRS, Forks, Task, Tasks
from tests.faults.watch import until

LOST_S = 1.5
# What a busy machine may take longer.
MARGIN_S = 1.2
CLIENT = Path(__file__).with_name("frozen_tf.py")


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory, tensorflow_forks: Forks) -> Iterator[Tasks]:
    with Tasks(tmp_path_factory.mktemp("frozen"), {"ours": [OURS], "theirs": [THEIRS]}, forks=tensorflow_forks) as made:
        # Each is a cluster of its own.
        yield made.start()


@pytest.fixture(params=["ours", "theirs"])
def master(request: pytest.FixtureRequest, tasks: Tasks) -> Iterator[Task]:
    yield tasks[request.param, 0]
    tasks[request.param, 0].thaw()


def graph_with_a_queue() -> tuple[runtime.Graph, Any, Any]:
    """Return a graph, a tensor of it, and one that waits for ever; on whichever task is asked."""
    graph = runtime.Graph()
    number = graph.op("Mul", graph.constant(np.float32(3.0)), graph.constant(np.float32(2.0)), name="mul")
    queue = graph.op("FIFOQueueV2", component_types=[np.float32], name="queue")
    return graph, number, graph.op("QueueDequeueV2", queue, component_types=[np.float32], name="take")


def test_our_client_is_told_who_is_silent_what_was_awaited_and_since_when(master: Task) -> None:
    graph, number, take = graph_with_a_queue()
    found: list[Any] = []

    def wait_for_ever() -> None:
        try:
            session.run(take)
        except Exception as error:
            found.append((time.monotonic(), error))

    with runtime.Session(master.target, graph, peer_timeout_s=LOST_S) as session:
        assert session.run(number) == 6.0
        waiting = threading.Thread(target=wait_for_ever)
        waiting.start()
        waiting.join(LOST_S + 0.5)
        assert not found  # a server that is busy for longer is not silent
        master.freeze()
        frozen = time.monotonic()
        with pytest.raises(Unavailable, match=rf"^{master.target} has not answered for 1.5 s; RunStep of mul:0 was "
                                              r"awaited from it for \d\.\d s, since \d\d:\d\d:\d\d$"):
            session.run(number)
        assert time.monotonic() - frozen < LOST_S + MARGIN_S
        waiting.join(20)
        ((ended, error),) = found
        assert isinstance(error, Unavailable) and "RunStep of take:0 was awaited from it for" in str(error)
        assert ended - frozen < LOST_S + MARGIN_S
        master.thaw()
        assert session.run(number) == 6.0  # over a new connection, in the session that the master still has


def test_our_client_closes_a_session_of_a_frozen_master_soon(master: Task) -> None:
    graph, number, _ = graph_with_a_queue()
    session = runtime.Session(master.target, graph, peer_timeout_s=LOST_S)
    session.run(number)
    master.freeze()
    with pytest.raises(Unavailable, match="has not answered"):
        session.run(number)
    began = time.monotonic()
    session.close()
    assert time.monotonic() - began < 1.0 + MARGIN_S
    with pytest.raises(InvalidArgument, match="peer_timeout_s is -1: it must be seconds, or 0"):
        runtime.Session(master.target, peer_timeout_s=-1)


def test_a_master_that_freezes_behind_its_answer_is_told_while_large_fetches_are_awaited(
        tasks: Tasks, monkeypatch: pytest.MonkeyPatch) -> None:
    master = tasks["ours", 0]
    graph = runtime.Graph()
    x = graph.placeholder("float32", [None])
    value = np.ones(1 << 20, np.float32)
    frozen = []

    def claimed(*args: Any) -> Any:
        master.freeze()
        frozen.append(time.monotonic())
        return claim(*args)

    claim = tensor_roads.elsewhere.claimed
    with runtime.Session(master.target, graph, peer_timeout_s=3 * LOST_S) as session:
        assert session.run(x + x, {x: value})[-1] == 2.0
        monkeypatch.setattr(tensor_roads.elsewhere, "claimed", claimed)
        try:
            with pytest.raises(Unavailable, match=r"has not answered for 4.5 s; the transfer of the fetches of the "
                                                  r"step \(.*\) was awaited from it for"):
                session.run(x + x, {x: value})
            # A claim takes 2 s to be given up; they are not added.
            assert time.monotonic() - frozen[0] < 3 * LOST_S + MARGIN_S
        finally:
            master.thaw()
        monkeypatch.undo()
        assert session.run(x + x, {x: value})[-1] == 2.0


def lines(out: Path) -> list[dict[str, Any]]:
    """Return what a client has told so far."""
    return [json.loads(line) for line in out.read_text().splitlines(keepends=True) if line.endswith("\n")]


def test_their_client_is_told_at_its_own_timeout_and_waits_for_ever_without_one(
        master: Task, tmp_path: Path, tensorflow_forks: Forks) -> None:
    outs, ends = {}, {}
    for timeout_ms in (1000, 0):
        folder = tmp_path / str(timeout_ms)
        folder.mkdir()
        outs[timeout_ms] = folder / "out"
        ends[timeout_ms] = tensorflow_forks.run(folder / "out", CLIENT, master.target, str(folder), str(timeout_ms))

    def step(number: int) -> None:
        for out in outs.values():
            (out.parent / f"step-{number}").touch()

    step(0)
    for out in outs.values():
        until(lambda out=out: len(lines(out)) == 2, "the first step", 60)
    master.freeze()
    step(1)
    until(lambda: len(lines(outs[1000])) == 4, "a timeout of the client", 60)
    until(lambda: len(lines(outs[0])) == 3, "the other client's step", 60)
    assert len(lines(outs[0])) == 3
    master.thaw()
    step(2)
    with ThreadPoolExecutor(2) as threads:
        bounded, unbounded = threads.map(lambda timeout_ms: ends[timeout_ms](60.0), (1000, 0))
    _, first, _, late, _, last = bounded
    assert (first["value"], last["value"]) == (0.0, 4.0)
    assert late["code"] == 4 and "Deadline Exceeded" in late["message"]
    assert 0.9 < late["seconds"] < 1.0 + MARGIN_S
    assert [line["value"] for line in unbounded if "value" in line] == [0.0, 2.0, 4.0]
    assert unbounded[3]["seconds"] > 0.9  # it went on when the master did
