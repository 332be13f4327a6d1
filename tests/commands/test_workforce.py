"""Making and ending workers, against a provider that only keeps a record."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import grpc
import pytest

from runtime.errors import Unavailable
from tests.commands import fake_provider
from tests.commands.fake_provider import FakeProvider
from tests.conformance.taskqueue.client import Queue, code, serving, wait_until

INVALID = grpc.StatusCode.INVALID_ARGUMENT
NOT_FOUND = grpc.StatusCode.NOT_FOUND
FAST = {"command_providers": ("fake",), "command_register_s": 0.4, "command_offline_s": 0.8}


@pytest.fixture(autouse=True)
def _installed() -> Iterator[None]:
    with fake_provider.installed():
        yield


@pytest.fixture
def queue(tmp_path: Path) -> Iterator[Queue]:
    with serving(tmp_path, command_providers=("fake",)) as queue:
        yield queue


def state(folder: Path, worker: int) -> tuple[str, str, int]:
    """Return status, cause and number of restarts of a worker, from its row."""
    with closing(sqlite3.connect(folder / "data" / "store.db")) as connection:
        statement = "SELECT status, cause, restarts FROM command_workers WHERE number = ?"
        status, cause, restarts = connection.execute(statement, (worker,)).fetchone()
        return status, cause, restarts


def test_workers_are_made_and_register_under_their_names(queue: Queue) -> None:
    ids = queue.create_workers("fake", 3, concurrency=2, flavor="cpu2")
    names = {worker: name for worker, name, _ in queue.workers()}
    assert sorted(names) == ids and all(names[worker] == f"tr-worker{worker}" for worker in ids)
    wait_until(lambda: len(FakeProvider.last.specs) == 3, "made")
    spec = FakeProvider.last.specs[0]
    assert (spec.concurrency, spec.flavor.cpus, spec.region) == (2, 2, "near")
    tasks = [queue.submit() for _ in range(2)]
    assert queue.statuses() == dict.fromkeys(tasks, "P")
    assert queue.register(names[ids[0]]) == ids[0]
    assert queue.ping(ids[0]) == [(task, "A") for task in tasks]


def test_concurrency_0_means_1_and_prefetch_is_for_workers_that_can(queue: Queue) -> None:
    first, second = queue.create_workers("fake", 2, prefetch=2)
    names = {worker: name for worker, name, _ in queue.workers()}
    queue.register(names[first], x_tq_worker_instance="i")
    for _ in range(4):
        queue.submit()
    answer = queue.ping_whole(first, x_tq_worker_instance="i")
    assert (answer.concurrency, len(answer.tasks)) == (1, 3)
    queue.register(names[second])
    assert len(queue.ping(second)) == 1


@pytest.mark.parametrize(("fields", "expected"), [
    ({"provider": "nowhere"}, NOT_FOUND),
    ({"provider": "fake.other"}, NOT_FOUND),
    ({"provider": ""}, INVALID),
    ({"flavor": "huge"}, NOT_FOUND),
    ({"flavor": "cpu0"}, NOT_FOUND),
    ({"flavor_id": 4}, NOT_FOUND),
    ({"region_id": 3}, NOT_FOUND),
    ({"step_id": 1}, NOT_FOUND),
    ({"flavor": "cpu1", "flavor_id": 3}, INVALID),
    ({"concurrency": 5000}, INVALID),
    ({"prefetch": 5000}, INVALID),
    ({"number": 1001}, grpc.StatusCode.RESOURCE_EXHAUSTED),
])
def test_requests_that_cannot_be_met_make_nothing(queue: Queue, fields: dict[str, object], expected: object) -> None:
    request = {"provider": "fake", "number": 2, **fields}
    assert code(lambda: queue.create_workers(**request)) is expected  # type: ignore[arg-type]
    assert queue.workers() == [] and FakeProvider.last.asked == []


def test_numbers_stand_for_flavors_and_regions(queue: Queue) -> None:
    queue.create_workers("", 1, flavor_id=3, region_id=2)
    queue.create_workers("fake", 1, flavor="cpu2", flavor_id=3)
    wait_until(lambda: len(FakeProvider.last.specs) == 2, "made")
    assert [(spec.flavor.name, spec.region) for spec in FakeProvider.last.specs] == [("cpu2", "far"), ("cpu2", "near")]


def test_none_are_made_for_number_0_an_unusable_provider_or_a_quota(tmp_path: Path) -> None:
    with serving(tmp_path, command_providers=("fake",), command_max_workers=3) as queue:
        assert queue.create_workers("fake", 0) == []
        assert len(queue.create_workers("fake", 2)) == 2
        assert code(lambda: queue.create_workers("fake", 2)) is grpc.StatusCode.RESOURCE_EXHAUSTED
        FakeProvider.last.unusable = "no room"
        assert code(lambda: queue.create_workers("fake", 1)) is grpc.StatusCode.FAILED_PRECONDITION
        assert len(queue.workers()) == 2


def test_a_job_that_fails_is_tried_again_and_at_last_reported(
    tmp_path: Path, queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runtime.commands.workforce.BACKOFFS_S", (0.05, 0.1, 0.1))
    provider = FakeProvider.last
    provider.failures = [Unavailable("not now")] * 3
    queue.create_workers("fake", 1)
    wait_until(lambda: provider.alive, "made at last")
    assert len(provider.asked) == 4
    provider.failures = [Unavailable("not now")] * 4
    (hopeless,) = queue.create_workers("fake", 1)
    wait_until(lambda: state(tmp_path, hopeless)[:2] == ("F", "not now"), "given up")


def test_a_job_that_takes_too_long_is_ended_before_it_is_tried_again(
    queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runtime.commands.workforce.BACKOFFS_S", (0.05, 0.1, 0.1))
    monkeypatch.setattr("runtime.commands.workforce.JOB_TRY_S", 0.2)
    provider = FakeProvider.last
    provider.delay_s = 30.0
    queue.create_workers("fake", 1)
    wait_until(lambda: len(provider.asked) >= 2, "tried again")
    provider.delay_s = 0.0
    wait_until(lambda: provider.alive, "made at last")


def test_a_worker_that_never_registers_is_made_again_and_then_reported(tmp_path: Path) -> None:
    with serving(tmp_path, **FAST) as queue:
        (worker,) = queue.create_workers("fake", 1)
        wait_until(lambda: state(tmp_path, worker)[0] == "F", "given up")
        _, cause, restarts = state(tmp_path, worker)
        assert "has not registered within" in cause and restarts == 3
        assert [what for what, _ in FakeProvider.last.asked].count("restart") == 3


def test_a_worker_that_dies_or_hangs_is_replaced(tmp_path: Path) -> None:
    with serving(tmp_path, **FAST) as queue:
        provider = FakeProvider.last
        (worker,) = queue.create_workers("fake", 1)
        name = queue.workers()[0][1]
        wait_until(lambda: provider.alive, "made")
        queue.register(name)
        provider.alive.clear()
        wait_until(lambda: [queue.ping(worker), provider.alive][-1], "made again")
        assert state(tmp_path, worker)[1:] == ("its process has ended", 1)
        provider.asked.clear()
        # From here on it does not ping any more.
        wait_until(lambda: provider.asked, "made again")
        assert ("restart", name) in provider.asked
        assert "silent" in state(tmp_path, worker)[1]


def test_deleting_takes_back_what_the_worker_had(tmp_path: Path) -> None:
    with serving(tmp_path, command_providers=("fake",)) as queue:
        provider = FakeProvider.last
        (worker,) = queue.create_workers("fake", 1, concurrency=2)
        name = queue.workers()[0][1]
        wait_until(lambda: provider.alive, "made")
        queue.register(name)
        running, assigned = queue.submit(), queue.submit()
        queue.ping(worker)
        queue.path(running, "CR")
        assert queue.delete_worker(worker)
        assert queue.workers() == [] and queue.statuses() == {running: "P", assigned: "P"}
        assert code(lambda: queue.ping(worker)) is NOT_FOUND
        wait_until(lambda: not provider.alive, "ended")
        assert queue.delete_worker(worker)
        assert code(lambda: queue.delete_worker(4_000_000_000)) is NOT_FOUND
        assert code(lambda: queue.delete_worker(0)) is INVALID
        # Its name is free again.
        assert queue.register(name) != worker


def test_deleting_ends_a_job_that_is_still_at_it(queue: Queue) -> None:
    provider = FakeProvider.last
    provider.delay_s = 30.0
    (worker,) = queue.create_workers("fake", 1)
    wait_until(lambda: provider.asked, "begun")
    begin = time.monotonic()
    assert queue.delete_worker(worker)
    wait_until(lambda: provider.asked[-1][0] == "delete", "ended")
    assert time.monotonic() - begin < 20 and not provider.alive


def test_permanent_workers_are_deleted_when_they_are_silent(tmp_path: Path) -> None:
    with serving(tmp_path, command_offline_s=0.5) as queue:
        worker = queue.register("permanent")
        assert code(lambda: queue.delete_worker(worker)) is grpc.StatusCode.FAILED_PRECONDITION
        wait_until(lambda: state(tmp_path, worker)[0] == "O", "offline")
        assert queue.delete_worker(worker)
        assert queue.workers() == []


def test_managed_workers_that_are_gone_for_good_are_deleted(tmp_path: Path) -> None:
    with serving(tmp_path, **{**FAST, "command_offline_s": 0.5, "command_evict_s": 1.5}) as queue:
        provider = FakeProvider.last
        (worker,) = queue.create_workers("fake", 1)
        wait_until(lambda: provider.alive, "made")
        queue.register(queue.workers()[0][1])
        wait_until(lambda: state(tmp_path, worker)[0] == "D", "deleted")
        wait_until(lambda: not provider.alive, "ended")


def test_jobs_go_on_with_the_next_server(tmp_path: Path) -> None:
    with serving(tmp_path, command_providers=("fake",)) as queue:
        FakeProvider.last.delay_s = 30.0
        queue.create_workers("fake", 2)
        wait_until(lambda: FakeProvider.last.asked, "begun")
    with serving(tmp_path, command_providers=("fake",)) as queue:
        wait_until(lambda: len(FakeProvider.last.alive) == 2, "made by the next one")
        assert len(queue.workers()) == 2


def test_what_no_worker_is_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runtime.commands.workforce.ORPHANS_S", 0.2)
    with serving(tmp_path, command_providers=("fake",)):
        FakeProvider.last.alive.update({"tr-worker99": "h", "somebody else's": "h"})
        wait_until(lambda: "tr-worker99" not in FakeProvider.last.alive, "ended")
        assert list(FakeProvider.last.alive) == ["somebody else's"]
