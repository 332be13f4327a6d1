"""Staging areas and barriers where operations wait: for room, for tuples, until they are cancelled."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

import runtime
from runtime.dtypes import DataType
from runtime.errors import Cancelled, InvalidArgument, OutOfRange
from runtime.ops.state.barrier import Barrier
from runtime.ops.state.staging import StagingArea, StagingMap
from tests.ops.waiting import WAIT_S, Answer, Steps


@pytest.fixture
def steps() -> Steps:
    return Steps()


def number(value: float) -> np.ndarray:
    return np.array(value, np.float32)


def call(method: Any, *args: Any, **kwargs: Any) -> Answer:
    answer = Answer()
    method(*args, answer, **kwargs)
    return answer


def values(answer: Answer) -> list[float]:
    return [float(value) for value in answer.result()]


def test_an_area_lets_wait_for_room_and_for_tuples(steps: Steps) -> None:
    area = StagingArea(2, 0)
    early = call(area.take, steps.new())
    peek = call(area.peek, steps.new(), 1)
    puts = [call(area.put, steps.new(), [number(value)]) for value in range(4)]
    assert values(early) == [0.0]
    assert values(peek) == [2.0], "the second of those that were left"
    assert [put.waits for put in puts] == [False, False, False, True]
    assert values(call(area.take, steps.new())) == [1.0]
    assert not puts[3].waits
    assert area.size() == 2


def test_an_area_bounds_its_bytes(steps: Steps) -> None:
    area = StagingArea(0, 10)
    first, second = (call(area.put, steps.new(), [np.zeros(2, np.float32)]) for _ in range(2))
    assert not first.waits and second.waits
    area.clear()
    assert not second.waits
    assert area.size() == 1


def test_cancelled_operations_leave_no_trace(steps: Steps) -> None:
    area = StagingArea(1, 0)
    step = steps.new()
    take = call(area.take, step)
    step.cancel(Cancelled("away"))
    with pytest.raises(Cancelled, match=r"^Unstage operation was cancelled$"):
        take.result()
    call(area.put, steps.new(), [number(1)]).result()
    step = steps.new()
    put = call(area.put, step, [number(2)])
    step.cancel(Cancelled("away"))
    with pytest.raises(Cancelled, match=r"^Stage operation was cancelled$"):
        put.result()
    assert values(call(area.take, steps.new())) == [1.0]
    assert area.size() == 0


def test_dropping_an_area_ends_everything_that_waits(steps: Steps) -> None:
    area = StagingArea(1, 0)
    take = call(area.take, steps.new())
    area.close()
    with pytest.raises(Cancelled):
        take.result()


def test_a_map_lets_wait_for_a_key_and_for_room(steps: Steps) -> None:
    found = StagingMap(2, 1, 0, is_ordered=True)
    seven, any_key = call(found.take, steps.new(), 7, [0, 1]), call(found.take_any, steps.new(), [0])
    pair = [number(1), number(2)]
    call(found.put, steps.new(), 5, [0, 1], pair).result()
    assert seven.waits
    key, tensors = any_key.result()
    assert (key, [float(tensor) for tensor in tensors]) == (5, [1.0])
    put = call(found.put, steps.new(), 7, [0, 1], pair)
    assert put.waits, "what is left of the first fills the map"
    assert values(call(found.take, steps.new(), 5, [1])) == [2.0]
    assert not put.waits
    assert values(seven) == [1.0, 2.0]


def test_a_cancelled_put_lets_the_next_one_in_and_its_taker_go_on(steps: Steps) -> None:
    found = StagingMap(1, 0, 10, is_ordered=False)
    call(found.put, steps.new(), 1, [0], [np.zeros(1, np.float32)]).result()
    step = steps.new()
    large = call(found.put, step, 2, [0], [np.zeros(2, np.float32)])
    small, taker = call(found.put, steps.new(), 3, [0], [number(3)]), call(found.take, steps.new(), 3, [0])
    assert large.waits and small.waits and taker.waits
    step.cancel(Cancelled("away"))
    with pytest.raises(Cancelled):
        large.result()
    assert not small.waits
    assert values(taker) == [3.0]


def test_parts_of_a_tuple_come_together(steps: Steps) -> None:
    found = StagingMap(2, 0, 0, is_ordered=False)
    whole = call(found.take, steps.new(), 1, [0, 1])
    call(found.put, steps.new(), 1, [1], [number(2)]).result()
    assert whole.waits
    assert (found.size(), found.incomplete_size()) == (0, 1)
    with pytest.raises(InvalidArgument, match="already initialized"):
        call(found.put, steps.new(), 1, [1], [number(2)]).result()
    call(found.put, steps.new(), 1, [0], [number(1)]).result()
    assert values(whole) == [1.0, 2.0]
    assert (found.size(), found.incomplete_size()) == (0, 0)


@pytest.mark.parametrize("bound", [(3, 0), (0, 12), (0, 0)])
def test_many_threads_lose_and_repeat_nothing(steps: Steps, bound: tuple[int, int]) -> None:
    area, each, producers = StagingArea(*bound), 200, 3
    found: list[float] = []
    failures: list[BaseException] = []

    def work(base: int | None) -> None:
        try:
            for turn in range(each):
                if base is None:
                    found.extend(values(call(area.take, steps.new())))
                else:
                    call(area.put, steps.new(), [number(base + turn)]).result()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(base,))
               for base in (*range(0, producers * 1000, 1000), *[None] * producers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_S)
        assert not thread.is_alive()
    assert not failures
    assert sorted(found) == [base + turn for base in range(0, producers * 1000, 1000) for turn in range(each)]


# Barriers


def barrier() -> Barrier:
    return Barrier("b", [DataType.FLOAT, DataType.FLOAT], [(), ()])


def insert(made: Barrier, step: Any, component: int, *keys: str) -> None:
    call(made.insert, step, component, [key.encode() for key in keys], np.arange(len(keys), dtype=np.float32)).result()


def taken(answer: Answer) -> list[str]:
    return [element[1].item().decode() for element in answer.result()]


def test_takers_wait_for_whole_tuples_in_the_order_of_their_keys(steps: Steps) -> None:
    made = barrier()
    answer = call(made.take, steps.new(), 2, allow_fewer=False)
    insert(made, steps.new(), 0, "a")
    insert(made, steps.new(), 0, "b", "c")
    insert(made, steps.new(), 1, "c")
    assert answer.waits
    assert (made.ready_size(), made.incomplete_size()) == (0, 2)
    insert(made, steps.new(), 1, "a")
    assert taken(answer) == ["c", "a"], "in which they became whole, for one that waits"
    insert(made, steps.new(), 0, "e", "d")
    insert(made, steps.new(), 1, "d", "b", "e")
    assert taken(call(made.take, steps.new(), 3, allow_fewer=False)) == ["b", "d", "e"]


def test_a_cancelled_taker_loses_nothing(steps: Steps) -> None:
    made, step = barrier(), steps.new()
    answer = call(made.take, step, 2, allow_fewer=False)
    insert(made, steps.new(), 0, "a")
    insert(made, steps.new(), 1, "a")
    step.cancel(Cancelled("away"))
    with pytest.raises(Cancelled):
        answer.result()
    assert taken(call(made.take, steps.new(), 1, allow_fewer=False)) == ["a"]


def test_closing_waits_for_what_is_incomplete(steps: Steps) -> None:
    made = barrier()
    insert(made, steps.new(), 0, "a")
    answer = call(made.take, steps.new(), 2, allow_fewer=True)
    call(made.shut, steps.new(), cancel_pending=False).result()
    assert answer.waits
    insert(made, steps.new(), 1, "a")
    assert taken(answer) == ["a"]
    with pytest.raises(OutOfRange, match=r"^Barrier 'b' is closed and has insufficient elements"):
        call(made.take, steps.new(), 1, allow_fewer=False).result()


def test_closing_at_once_ends_takers(steps: Steps) -> None:
    for end in (lambda made: call(made.shut, steps.new(), cancel_pending=True).result(), lambda made: made.close()):
        made = barrier()
        insert(made, steps.new(), 0, "a")
        answer = call(made.take, steps.new(), 1, allow_fewer=True)
        end(made)
        with pytest.raises(OutOfRange):
            answer.result()
        with pytest.raises(Cancelled):
            insert(made, steps.new(), 1, "a")


def test_a_wrong_key_takes_nothing_from_those_before_it(steps: Steps) -> None:
    made = barrier()
    insert(made, steps.new(), 0, "a", "b")
    with pytest.raises(InvalidArgument, match="^Key c already has a value for component 1 in barrier b$"):
        insert(made, steps.new(), 1, "a", "c", "c")
    assert taken(call(made.take, steps.new(), 1, allow_fewer=False)) == ["a"]


@pytest.mark.parametrize(("keys", "shape"), [(2, (1, 2)), (1, (2,)), (1, (1, 3))])
def test_values_are_as_many_as_keys_and_have_the_shape_of_the_component(keys: int, shape: tuple[int, ...]) -> None:
    graph = runtime.Graph()
    made = graph.op("Barrier", component_types=[DataType.FLOAT], shapes=[(2,)])
    names = np.array([b"a", b"b"][:keys], object)
    insert = graph.op("BarrierInsertMany", made, graph.constant(names), graph.constant(np.zeros(shape, np.float32)),
                      component_index=0)
    with runtime.Session(graph=graph) as session, pytest.raises(InvalidArgument, match="Shape mismatch in values"):
        session.run(insert)
