"""The cycle collector is held off for large graphs only, and always comes back."""

from __future__ import annotations

import gc
import threading

import pytest

from runtime.errors import InvalidArgument
from runtime.graph.collection import LARGE_NODES, collection_paused
from runtime.graph.graph import Graph
from tests.graph.graphs import const, graph_def


def test_the_collector_rests_inside_and_works_outside() -> None:
    assert gc.isenabled()
    with collection_paused(LARGE_NODES):
        assert not gc.isenabled()
        with collection_paused(LARGE_NODES):
            assert not gc.isenabled()
        assert not gc.isenabled()
    assert gc.isenabled()
    with collection_paused(LARGE_NODES - 1):
        assert gc.isenabled()


def test_a_collector_that_was_off_stays_off() -> None:
    gc.disable()
    try:
        with collection_paused(LARGE_NODES):
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_the_last_thread_out_lets_it_work_again() -> None:
    inside, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with collection_paused(LARGE_NODES):
            inside.set()
            leave.wait(10)

    thread = threading.Thread(target=hold)
    thread.start()
    assert inside.wait(10)
    with collection_paused(LARGE_NODES):
        pass
    assert not gc.isenabled()
    leave.set()
    thread.join(10)
    assert gc.isenabled()


def test_a_graph_that_is_refused_leaves_it_working() -> None:
    with pytest.raises(InvalidArgument, match="not unique"):
        Graph.from_proto(graph_def(*(const("same", 1.0) for _ in range(LARGE_NODES))))
    assert gc.isenabled()
