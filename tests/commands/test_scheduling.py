"""Who gets what: shares, order, and limits that hold whatever workers do."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, suppress

import pytest

from runtime.commands import lost, scheduling, transitions
from runtime.commands.model import ACTIVE, BEGUN, HELD, Caller, Rules, Status, WorkerRow, WorkerStatus
from runtime.errors import Aborted, FailedPrecondition
from runtime.store.sqlite.command_tables import CommandTables
from runtime.store.sqlite.database import Database


@pytest.fixture
def rows() -> Iterator[CommandTables]:
    with closing(Database(None, [CommandTables])) as database:
        yield CommandTables(database.writer, 1)


def add_workers(rows: CommandTables, *concurrencies: int, prefetch: int = 0) -> list[int]:
    numbers = []
    for concurrency in concurrencies:
        worker = WorkerRow(0, f"worker {rows.num_managed()} {len(rows.workers())}", WorkerStatus.READY, concurrency,
                           prefetch)
        rows.insert_worker(worker)
        numbers.append(worker.number)
    return numbers


def add_commands(rows: CommandTables, count: int, created_s: float = 1.0) -> list[int]:
    return [rows.insert_command("true", "bare", created_s).number for _ in range(count)]


def shares(rows: CommandTables) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for number, *_ in rows.commands(["A"]):
        found.setdefault(rows.command(number).worker, []).append(number)
    return found


def test_rounds_of_one_most_free_slots_first(rows: CommandTables) -> None:
    one, two, three = add_workers(rows, 1, 3, 2)
    first = add_commands(rows, 4)
    scheduling.assign(rows, {one: False, two: False, three: False}, 2.0)
    assert shares(rows) == {two: [first[0], first[3]], three: [first[1]], one: [first[2]]}


def test_oldest_first_and_requeued_ones_before_younger(rows: CommandTables) -> None:
    (worker,) = add_workers(rows, 2)
    young, old = add_commands(rows, 1, 5.0)[0], add_commands(rows, 1, 1.0)[0]
    again = add_commands(rows, 1, 0.5)[0]
    for status in (Status.FAILED, Status.PENDING):
        transitions.move(rows, rows.command(again), status, 9.0)
    scheduling.assign(rows, {worker: False}, 9.0)
    assert shares(rows) == {worker: [old, again]} and rows.command(young).status is Status.PENDING


def test_only_workers_that_are_ready_and_there(rows: CommandTables) -> None:
    here, away, paused = add_workers(rows, 1, 1, 1)
    worker = rows.worker(paused)
    assert worker is not None
    worker.status = WorkerStatus.PAUSED
    rows.update_worker(worker)
    add_commands(rows, 5)
    scheduling.assign(rows, {here: False, paused: False}, 2.0)
    assert list(shares(rows)) == [here] and away not in shares(rows)


def test_prefetch_is_for_those_who_can(rows: CommandTables) -> None:
    can, cannot = add_workers(rows, 1, 1, prefetch=2)
    add_commands(rows, 10)
    scheduling.assign(rows, {can: True, cannot: False}, 2.0)
    assert {worker: len(numbers) for worker, numbers in shares(rows).items()} == {can: 3, cannot: 1}


@pytest.mark.parametrize("seed", range(8))
def test_no_worker_ever_has_more_than_it_may(rows: CommandTables, seed: int) -> None:
    chance = random.Random(seed)
    rules = Rules(max_attempts=2, on_restart=chance.choice(["fail", "requeue"]))
    concurrency = {number: chance.randrange(5) for number in range(1, 6)}
    assert add_workers(rows, *concurrency.values()) == list(concurrency)
    commands: list[int] = []
    for turn in range(300):
        now_s = float(turn)
        there = {number: False for number in concurrency if chance.random() < 0.8}
        what = chance.random()
        if what < 0.3:
            commands += add_commands(rows, chance.randrange(4), now_s)
        elif what < 0.9 and commands:
            with_callers = Caller(chance.randrange(6)) if chance.random() < 0.5 else Caller()
            with suppress(FailedPrecondition, Aborted):
                transitions.update(rows, chance.choice(commands), chance.choice(list(Status)), with_callers, 0, now_s)
        else:
            worker = rows.worker(chance.choice(list(concurrency)))
            assert worker is not None
            fate = chance.randrange(3)
            if fate == 0:
                lost.reclaim_assigned(rows, worker.number, now_s, "why")
            elif fate == 1:
                lost.give_up(rows, worker, rules, now_s, "why")
            else:
                lost.restarted(rows, worker, {}, rules, now_s)
        scheduling.assign(rows, there, now_s)
        held = Counter(
            rows.command(number).worker for number, _, _, status in rows.commands([str(one) for one in ACTIVE])
        )
        assert all(held[number] <= limit for number, limit in concurrency.items())
        assert set(held) <= set(concurrency)
        # Whoever is there and has a free slot leaves nothing waiting.
        if any(held[number] < concurrency[number] for number in there):
            assert not rows.has_pending()
        for number, _, _, status in rows.commands():
            command = rows.command(number)
            assert (command.worker != 0) or status not in HELD
            assert command.attempt <= 2 or status not in BEGUN or any(
                event.cause == "requeued" for event in rows.events(number)
            )


def test_nobody_starves_in_a_long_queue(rows: CommandTables) -> None:
    chance = random.Random(3)
    workers = add_workers(rows, *(1 + number % 3 for number in range(20)))
    slots = sum(1 + number % 3 for number in range(20))
    waiting = add_commands(rows, 600)
    order: list[int] = []
    idle_turns = Counter[int]()
    while len(order) < len(waiting):
        scheduling.assign(rows, dict.fromkeys(workers, False), 2.0)
        held = shares(rows)
        order += sorted(number for numbers in held.values() for number in numbers if number not in order)
        assert sum(map(len, held.values())) == slots or len(order) == len(waiting)
        for worker in workers:
            idle_turns[worker] = 0 if held.get(worker) else idle_turns[worker] + 1
        # No worker is without a command, not even for one turn, as long as some wait.
        assert max(idle_turns.values()) == 0 or len(order) == len(waiting)
        # As many end as it happens; every other one is held for long.
        running = [number for numbers in held.values() for number in numbers if number % 2 or chance.random() < 0.05]
        for number in running or [number for numbers in held.values() for number in numbers]:
            transitions.update(rows, number, Status.SUCCEEDED, Caller(), 0, 3.0)
    # Each had its turn before any that was submitted after it.
    assert order == waiting
