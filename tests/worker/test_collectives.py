"""Collectives: the ways of tensors in groups of any size, what a leader keeps, the calls, and how they fail."""

from __future__ import annotations

import itertools
import threading
import time
from collections import defaultdict
from typing import Any

import numpy as np
import pytest

import runtime
from runtime import wire
from runtime.errors import (
    Aborted,
    Cancelled,
    DeadlineExceeded,
    Error,
    FailedPrecondition,
    Internal,
    InvalidArgument,
)
from runtime.worker.collectives.algorithms import broadcast, final_of, merge_of, ring_gather, ring_reduce, subdivisions
from runtime.worker.collectives.groups import BROADCAST, REDUCE, GroupTable, InstanceTable, StepSequences
from runtime.worker.collectives.messages import content_of, encode_buffer
from tests.worker.conftest import Task, until

TASKS = {
    "one device each": lambda members: [f"t{member}" for member in range(members)],
    "all on one task": lambda members: ["t"] * members,
    "two on each task": lambda members: [f"t{member // 2}" for member in range(members)],
}


def exchanged(members: int, start: Any) -> list[list[Any]]:
    """Run all members' pieces, each as soon as what it waits for is there; return their results by rank."""
    given: dict[tuple[int, str], Any] = {}
    pieces = {}
    for rank in range(members):
        def give(key: str, part: Any, rank: int = rank) -> None:
            assert (rank, key) not in given, "a key is used once"
            given[rank, key] = part

        for number, piece in enumerate(start(rank, give)):
            pieces[rank, number] = piece
    results: dict[int, dict[int, Any]] = defaultdict(dict)
    waiting: dict[Any, Any] = dict.fromkeys(pieces)
    while waiting:
        moved = False
        for place, wanted in list(waiting.items()):
            if wanted is not None and (wanted.rank, wanted.key) not in given:
                continue
            moved = True
            received = None if wanted is None else given.pop((wanted.rank, wanted.key))
            assert wanted is None or received.size == wanted.size
            try:
                waiting[place] = pieces[place].send(received)
            except StopIteration as ended:
                results[place[0]][place[1]] = ended.value
                del waiting[place]
        assert moved, f"all wait: {waiting}"
    assert not given, "what was given out was taken"
    return [[results[rank][number] for number in sorted(results[rank])] for rank in range(members)]


@pytest.mark.parametrize("where", TASKS)
@pytest.mark.parametrize("members", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("size", [0, 1, 5, 64, 1000])
@pytest.mark.parametrize("offsets", [(0,), (0, -1), (0, 1, -2)])
def test_every_member_of_a_ring_gets_the_sum(where: str, members: int, size: int, offsets: tuple[int, ...]) -> None:
    tasks = TASKS[where](members)
    values = [np.arange(size, dtype=np.float64) * (rank + 1) for rank in range(members)]
    found = exchanged(members, lambda rank, give: ring_reduce(
        values[rank], tasks, rank, "k", offsets, merge_of("Add"), final_of("Div", members), give))
    for parts in found:
        np.testing.assert_allclose(np.concatenate(parts), sum(values) / members)


@pytest.mark.parametrize("members", [1, 2, 3, 5])
def test_every_member_gets_all_parts_in_their_order(members: int) -> None:
    tasks = TASKS["one device each"](members)
    found = exchanged(members, lambda rank, give: ring_gather(np.array([rank, rank]), tasks, rank, "k", give))
    for parts in found:
        assert np.concatenate(parts).tolist() == [rank for rank in range(members) for _ in range(2)]


@pytest.mark.parametrize("where", TASKS)
@pytest.mark.parametrize(("members", "source"), [(size, source) for size in (1, 2, 3, 6, 9) for source in range(size)])
def test_a_broadcast_reaches_everybody(where: str, members: int, source: int) -> None:
    tasks = TASKS[where](members)
    value = np.arange(3)
    found = exchanged(members, lambda rank, give: broadcast(
        value if rank == source else None, 3, tasks, rank, source, "k", give))
    assert [parts[0].tolist() for parts in found] == [[0, 1, 2]] * members


def test_means_of_integers_go_towards_zero() -> None:
    divide = final_of("Div", 2)
    assert divide is not None
    assert divide(np.array([-7, -1, 0, 7], np.int32)).tolist() == [-3, 0, 0, 3]


def test_subdivisions_as_tensorflow_chooses_them() -> None:
    assert subdivisions(1 << 30, 4, 2, -1) == (0,)
    assert subdivisions(100, 4, 2, 0) == (0,)
    assert subdivisions(64 << 20, 4, 2, 0) == (0, -1, 2, -3)


@pytest.mark.parametrize("size", [0, 1, 5, 4096, 40_000])
def test_content_of_a_piece_comes_back_in_both_forms(size: int) -> None:
    value = np.arange(size, dtype=np.float32)
    message = bytes(encode_buffer(value, 17))
    assert wire.RecvBufResponse.FromString(message).num_bytes == value.nbytes
    assert np.frombuffer(content_of(message, value.nbytes), np.float32).tolist() == value.tolist()
    extra = wire.RecvBufRespExtra()
    data = value.tobytes()
    for start in range(0, len(data), 4096):
        extra.tensor_content.append(data[start:start + 4096])
    other = wire.RecvBufResponse(num_bytes=value.nbytes)
    other.transport_options.Pack(extra)
    assert bytes(content_of(other.SerializeToString(), value.nbytes)) == data
    with pytest.raises(InvalidArgument, match=f"{value.nbytes + 4} were expected"):
        content_of(message, value.nbytes + 4)


@pytest.mark.parametrize("answer", [
    b"", b"\x10", b"\x10\x04\x22\xff\xff\xff\xff\x0f", b"\xff" * 20, b"\x22\x02\x12\x05",
])
def test_a_damaged_piece_is_refused(answer: bytes) -> None:
    with pytest.raises(InvalidArgument):
        content_of(answer, 4)


# The leader


def device(index: int, incarnation: int = 1) -> Any:
    return wire.DeviceAttributes(name=f"/job:worker/replica:0/task:{index}/device:CPU:0", device_type="CPU",
                                 incarnation=incarnation)


def test_a_group_is_complete_in_the_order_of_tasks() -> None:
    groups = GroupTable()
    seen: list[Any] = []
    for index in (10, 2):
        groups.join(1, 3, "CPU", device(index), lambda group, error: seen.append(group))
    assert not seen and groups.get(1) is None
    groups.join(1, 3, "CPU", device(0), lambda group, error: seen.append(group))
    assert len(seen) == 3
    assert [member.name for member in seen[0].members] == [device(index).name for index in (0, 2, 10)]
    assert seen[0].num_tasks == 3


def test_what_does_not_fit_into_a_group_is_refused() -> None:
    groups = GroupTable()
    groups.join(1, 1, "CPU", device(0), lambda group, error: None)
    with pytest.raises(Internal, match="has size 1"):
        groups.join(1, 1, "CPU", device(1), lambda group, error: None)
    with pytest.raises(Internal, match="size 2"):
        groups.join(1, 2, "CPU", device(0), lambda group, error: None)
    with pytest.raises(InvalidArgument, match="positive"):
        groups.join(2, 0, "CPU", device(0), lambda group, error: None)
    with pytest.raises(InvalidArgument, match="full name"):
        groups.join(2, 1, "CPU", wire.DeviceAttributes(name="/job:worker"), lambda group, error: None)


def test_a_restarted_member_begins_the_group_anew() -> None:
    groups = GroupTable()
    seen: list[Any] = []
    for index in range(2):
        groups.join(1, 2, "CPU", device(index), lambda group, error: seen.append(group))
    groups.join(1, 2, "CPU", device(1, 7), lambda group, error: seen.append(group))
    assert len(seen) == 2
    groups.join(1, 2, "CPU", device(0), lambda group, error: seen.append(group))
    assert [member.incarnation for member in seen[-1].members] == [1, 7]


def test_members_must_agree() -> None:
    groups, instances = GroupTable(), InstanceTable()
    for index in range(2):
        groups.join(1, 2, "CPU", device(index), lambda group, error: None)
    group = groups.get(1)
    assert group is not None
    names = [member.name for member in group.members]
    found: list[Any] = []

    def told(source: int, error: BaseException | None) -> None:
        found.append(error or source)

    instances.join(group, 1, REDUCE, 1, (3,), names[0], False, 0, told)
    assert found.pop() == -1
    with pytest.raises(Internal, match=r"expected shape \[4\] but another member in the group expected shape \[3\]"):
        instances.join(group, 1, REDUCE, 1, (4,), names[1], False, 0, told)
    instances.join(group, 2, BROADCAST, 1, (3,), names[0], False, 0, told)
    assert not found
    instances.join(group, 2, BROADCAST, 1, (3,), names[1], True, 0, told)
    assert [found.pop(), found.pop()] == [1, 1]
    for name in names:
        instances.join(group, 3, BROADCAST, 1, (3,), name, False, 0, told)
    assert all("found no source for broadcast" in found.pop().message for _ in names)
    instances.join(group, 4, BROADCAST, 1, (3,), names[0], True, 0, told)
    with pytest.raises(Internal, match="already has source"):
        instances.join(group, 4, BROADCAST, 1, (3,), names[1], True, 0, told)
    instances.close(Cancelled("the end"))
    assert isinstance(found.pop(), Cancelled)


def test_numbers_of_steps_go_on_and_are_asked_for_again_after_a_failure() -> None:
    sequences = StepSequences()
    assert sequences.get(5) is None
    [(_, first)] = sequences.make([5])
    assert sequences.make([5]) == [(5, first)]
    sequences.retire(5, first, failed=False)
    assert sequences.get(5) == (first + 1) % (1 << 57)
    sequences.retire(5, first + 1, failed=True)
    assert sequences.get(5) is None


# The calls


def test_a_group_over_the_wire(tasks: list[Task]) -> None:
    leader = tasks[0]
    request = {"group_key": 3, "group_size": 2, "device_type": "CPU"}
    first = leader.start("CompleteGroup", device_attributes=device(0), **request)
    answer = leader.call("CompleteGroup", device_attributes=device(1), **request)
    assert [one.name for one in answer.device_attributes] == [device(0).name, device(1).name]
    assert answer.num_tasks == 2
    assert leader.finish("CompleteGroup", first) == answer
    with pytest.raises(FailedPrecondition, match="group 99 not found"):
        leader.call("CompleteInstance", group_key=99, instance_key=1)
    numbers = leader.call("GetStepSequence", graph_key=[1, -2]).step_sequence
    assert [entry.graph_key for entry in numbers] == [1, -2]
    assert leader.call("GetStepSequence", graph_key=[-2]).step_sequence[0] == numbers[1]


def test_pieces_are_asked_of_living_devices_and_end_with_their_step(tasks: list[Task]) -> None:
    one = tasks[0]
    with pytest.raises(FailedPrecondition, match="RecvBuf expects a different device incarnation: 1 vs"):
        one.call("RecvBuf", step_id=8, buf_rendezvous_key="k", src_device=one.cpu, src_incarnation=1)
    with pytest.raises(InvalidArgument, match="unknown device"):
        one.call("RecvBuf", step_id=8, buf_rendezvous_key="k", src_device="/job:worker/task:0/device:GPU:0")
    calls = [one.start("RecvBuf", step_id=8, buf_rendezvous_key="k", src_device=one.cpu,
                       src_incarnation=one.incarnation, request_id=5) for _ in range(2)]
    until(lambda: any(call.done() for call in calls))
    second, first = sorted(calls, key=lambda call: not call.done())  # whichever came first
    with pytest.raises(Aborted, match="received twice"):
        one.finish("RecvBuf", second)
    assert not first.done()
    one.call("CleanupGraph", step_id=8)
    with pytest.raises(Aborted, match="Cleanup 8"):
        one.finish("RecvBuf", first)


# Steps

KEYS = itertools.count(1000)


def collective(graph: runtime.Graph, index: int, op: str, size: int = 2, key: int = 0, **attrs: Any) -> Any:
    """Return a collective of one worker, whose keys are inputs."""
    with graph.device(f"/job:worker/task:{index}"):
        keys = [graph.constant(np.int32(number)) for number in (size, 50, key)]
        value = graph.constant(np.float32([index + 1, 2]))
        if op == "CollectiveBcastRecvV2":
            return graph.op(op, *keys, graph.constant(np.int32([2])), T=runtime.dtypes.DataType.FLOAT, **attrs)
        tokens = () if op == "CollectiveBcastSendV2" else ([],)
        return graph.identity(graph.op(op, value, *keys, *tokens, **attrs))


REDUCTION = {"merge_op": "Add", "final_op": "Id"}


def test_keys_may_be_inputs(tasks: list[Task]) -> None:
    graph = runtime.Graph()
    sums = [collective(graph, index, "CollectiveReduceV2", key=1, **REDUCTION) for index in range(2)]
    gathered = [collective(graph, index, "CollectiveGatherV2", key=2) for index in range(2)]
    spread = [collective(graph, index, op, key=3)
              for index, op in enumerate(("CollectiveBcastRecvV2", "CollectiveBcastSendV2"))]
    with runtime.Session(tasks[0].server.target, graph) as session:
        for _ in range(2):
            found = session.run([*sums, *gathered, *spread])
            assert [value.tolist() for value in found] == [[3, 4]] * 2 + [[1, 2, 2, 2]] * 2 + [[2, 2]] * 2


def failing(function: Any, seconds: float = 10.0) -> Error:
    began = time.monotonic()
    with pytest.raises(Error) as caught:
        function()
    assert time.monotonic() - began < seconds
    return caught.value


def test_a_member_that_does_not_come_is_waited_for_as_long_as_told(tasks: list[Task]) -> None:
    graph = runtime.Graph()
    alone = collective(graph, 1, "CollectiveReduceV2", key=next(KEYS), timeout_seconds=0.5, **REDUCTION)
    pair = [collective(graph, index, "CollectiveReduceV2", key=next(KEYS), **REDUCTION) for index in range(2)]
    with runtime.Session(tasks[0].server.target, graph) as session:
        error = failing(lambda: session.run(alone))
        assert isinstance(error, DeadlineExceeded)
        assert "Collective has timed out" in error.message
        options = wire.RunOptions(timeout_in_ms=700)
        assert isinstance(failing(lambda: session.run(pair[0], options=options)), DeadlineExceeded)


def test_a_lost_member_ends_the_collective_of_the_others(tasks: list[Task]) -> None:
    graph = runtime.Graph()
    pair = [collective(graph, index, "CollectiveReduceV2", key=77, **REDUCTION) for index in range(2)]
    with graph.device("/job:worker/task:1"):
        queue = graph.op("FIFOQueueV2", component_types=["float32"], shapes=[[]])
        blocked = graph.op("QueueDequeueV2", queue, component_types=["float32"])
    with runtime.Session(tasks[0].server.target, graph) as session:
        session.run(pair)
        errors: list[Error] = []
        thread = threading.Thread(target=lambda: errors.append(failing(lambda: session.run([pair[0], blocked]))))
        thread.start()
        until(lambda: any(run.num_steps for run in tasks[1].told().worker_session))
        tasks[1].server.stop(0)
        thread.join(15)
        assert not thread.is_alive() and errors


def test_a_server_without_a_cluster_has_nobody_to_join() -> None:
    graph = runtime.Graph()
    made = graph.op("CollectiveReduce", graph.constant(np.ones(2, np.float32)), group_size=2, group_key=1,
                    instance_key=1, subdiv_offsets=[0], **REDUCTION)
    with runtime.Session(graph=graph) as session:
        assert isinstance(failing(lambda: session.run(made)), FailedPrecondition)
