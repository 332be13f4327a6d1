"""Steps that take part in collectives: which they are, and the numbers that all their masters agree on.

Where each worker has a master of its own, the parts of a common step are run by several masters. They find together by
the step's number, which the leader of the collectives gives out for a key of the graph.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from concurrent.futures import Future
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from runtime.graph.node import Node
    from runtime.worker.collectives.session import SessionCollectives

__all__ = ["StepNumbers", "common_key", "graph_key"]

_BY_ATTRS = frozenset({"CollectiveReduce", "CollectiveGather", "CollectiveBcastSend", "CollectiveBcastRecv"})
_BY_INPUTS = frozenset({"CollectiveReduceV2", "CollectiveGatherV2", "CollectiveBcastSendV2", "CollectiveBcastRecvV2"})
_SEED = 0x8774AA605C729C72
_GOLDEN = 0x9E3779B97F4A7800
_MASK = (1 << 64) - 1


def graph_key(nodes: Iterable[Node]) -> int:
    """Return TensorFlow's key of a graph with collectives, a signed number; 0 for a graph without."""
    found = False
    instances = set()
    for node in nodes:
        if node.op in _BY_ATTRS:
            found = True
            instances.add(int(node.attr("instance_key")))
        elif node.op in _BY_INPUTS:
            found = True
    if not found:
        return 0
    key = _SEED
    for one in sorted(instances):
        value = one & _MASK
        key = value ^ ((key + _GOLDEN + (value << 10) + (value >> 4)) & _MASK)
    return key - (1 << 64) if key >> 63 else key


def common_key(nodes: Iterable[Node], chosen: int, *, spans_tasks: bool) -> int:
    """Return the key under which a step gets its number, 0 for a number of its own.

    Parameters
    ----------
    nodes : iterable of Node
        Of the step.
    chosen : int
        What the client says; 0 for nothing.
    spans_tasks : bool
        Whether this master runs parts on several tasks.
    """
    if chosen:
        return chosen
    nodes = [node for node in nodes if node.op in _BY_ATTRS or node.op in _BY_INPUTS]
    if not nodes:
        return 0
    if all(node.op in _BY_ATTRS for node in nodes):
        # When all members of every group are in it, nobody else runs a part of the step.
        places = {(int(node.attr("group_key")), node.device) for node in nodes}
        members = Counter(group for group, _ in places)
        if all(members[int(node.attr("group_key"))] >= int(node.attr("group_size")) for node in nodes):
            return 0
    elif spans_tasks:
        return 0
    return graph_key(nodes)


class StepNumbers:
    """The numbers of a session's common steps, while they run."""

    def __init__(self) -> None:
        self._running: dict[int, tuple[int, bool]] = {}  # step id -> graph key, whether it has failed

    def ask(self, collectives: SessionCollectives, key: int) -> Future[None] | None:
        """Have the leader asked where the next number is not known; return what to wait for."""
        if collectives.step_id(key) is not None:
            return None
        waiting: Future[None] = Future()

        def answered(error: BaseException | None) -> None:
            if waiting.set_running_or_notify_cancel():
                if error is not None:
                    waiting.set_exception(error)
                else:
                    waiting.set_result(None)

        collectives.ask_step_id(key, answered)
        return waiting

    def take(self, collectives: SessionCollectives, key: int) -> int | None:
        """Return the number for a step that begins, or None when it is not known or in use."""
        found = collectives.step_id(key)
        if found is None or found in self._running:
            return None
        self._running[found] = (key, False)
        return found

    def fail(self, step_id: int) -> None:
        """Note that a step has failed."""
        entry = self._running.get(step_id)
        if entry is not None:
            self._running[step_id] = (entry[0], True)

    def end(self, collectives: SessionCollectives, step_id: int) -> None:
        """Go on to the next number behind a step that has ended."""
        entry = self._running.pop(step_id, None)
        if entry is not None:
            collectives.retire(entry[0], step_id, entry[1])
