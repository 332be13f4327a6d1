"""A worker behind a network that loses its packets: nobody hears of it, and yet nobody waits for ever."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator

import pytest

import runtime
from runtime.config import Settings
from runtime.errors import Aborted, Unavailable
from tests.cluster_tasks import OURS, Tasks
from tests.faults.network import Link, missing
from tests.faults.test_cluster_deaths import SLACK_S, WORKER, Both, failing

LOST_S = 2.0
# After the network is well again a connection is tried at least once a second.
BACK_S = 1.0 + SLACK_S

WHY_NOT = missing()
pytestmark = pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT))


@pytest.fixture(scope="module")
def link() -> Iterator[Link]:
    with Link() as made:
        yield made


@pytest.fixture(scope="module")
def tasks(link: Link, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tasks]:
    """A master here, and a worker there."""
    options = ("--insecure", "--peer-timeout-s", str(LOST_S))
    with Tasks(tmp_path_factory.mktemp("network"), {"master": [OURS], "worker": [OURS]}, options,
               hosts={("master", 0): link.here, ("worker", 0): link.there},
               prefix=lambda task: link.inside() if task.job == "worker" else ()) as made:
        yield made.start()
        assert not [task.log() for task in made if "Traceback" in task.log()]


@pytest.fixture
def both(link: Link, tasks: Tasks) -> Iterator[Both]:
    made = Both(tasks["master", 0].target)
    assert made.run() == [3.0, 3.0]
    yield made
    link.heal()
    made.session.close()


def resumed(both: Both) -> float:
    """Run steps until one succeeds; return how long that took."""
    began = time.monotonic()
    while True:
        try:
            assert both.run() == [3.0, 3.0]
        except Unavailable:
            assert time.monotonic() - began < BACK_S
            time.sleep(0.05)
        else:
            return time.monotonic() - began


def test_a_lost_task_is_reported_within_15_seconds_unless_told_otherwise() -> None:
    assert Settings().peer_timeout_s == 15.0


@pytest.mark.parametrize(("to_there", "to_here"), [(True, True), (False, True)],
                         ids=["both-ways", "on-the-way-here"])
def test_vanishing_packets_are_reported_and_the_session_goes_on_when_they_arrive_again(
        link: Link, tasks: Tasks, both: Both, to_there: bool, to_here: bool) -> None:
    blocked = failing(lambda: both.run(both.waiting))
    time.sleep(0.3)
    link.cut(to_there, to_here)
    cut = time.monotonic()
    error, failed = blocked()
    assert isinstance(error, Unavailable)
    assert failed - cut < LOST_S + SLACK_S
    told = re.fullmatch(rf"From {WORKER}:\n{WORKER} at (\S+) has not answered for 2 s; step \d+ was awaited from it "
                        r"for ([\d.]+) s", error.message)
    assert told, error.message
    assert told[1] == tasks["worker", 0].address
    assert float(told[2]) == pytest.approx(failed - cut + 0.3, abs=SLACK_S)

    for _ in range(2):  # the first one tries a new connection
        error, seconds = both.failure()
        assert isinstance(error, Unavailable)
        assert f"remote target {WORKER} while calling" in error.message or "has not answered" in error.message
        assert seconds < 3.0 + SLACK_S

    link.heal()
    assert resumed(both) < BACK_S
    again = Both(tasks["master", 0].target)
    assert again.run() == [3.0, 3.0]
    again.session.close()


def test_a_short_cut_is_no_reason_to_fail(link: Link, both: Both) -> None:
    link.cut()
    failed = failing(lambda: both.run(both.waiting))  # fails when the session closes
    time.sleep(0.3)
    link.heal()
    assert resumed(both) < BACK_S
    both.session.close()
    assert not isinstance(failed()[0], Unavailable)


def test_a_client_of_a_master_behind_the_cut_is_told_and_its_session_goes_on(link: Link, tasks: Tasks) -> None:
    target = tasks["worker", 0].target
    graph = runtime.Graph()
    with graph.device(WORKER):
        total = graph.constant([1.0, 2.0]) * 2.0
    with runtime.Session(target, graph, peer_timeout_s=LOST_S) as session:
        assert session.run(total).tolist() == [2.0, 4.0]
        link.cut()
        try:
            for _ in range(2):  # the second time over a new connection
                began = time.monotonic()
                with pytest.raises(Unavailable, match=rf"^{target} has not answered for 2 s; RunStep of .* was await"):
                    session.run(total)
                assert time.monotonic() - began < LOST_S + SLACK_S
        finally:
            link.heal()
        assert session.run(total).tolist() == [2.0, 4.0]


def test_a_worker_that_dies_and_returns_unseen_is_told_from_the_one_before(
        link: Link, tasks: Tasks, both: Both) -> None:
    blocked = failing(lambda: both.run(both.waiting))
    time.sleep(0.3)
    link.cut()
    tasks["worker", 0].kill()  # the end of its connections vanishes as well: they are half open
    tasks["worker", 0].start()
    link.heal()
    error, _ = blocked()
    assert isinstance(error, Unavailable)
    assert error.message.startswith(f"From {WORKER}:\n")
    deadline = time.monotonic() + BACK_S
    while isinstance((error := both.failure()[0]), Unavailable):
        assert time.monotonic() < deadline
    assert isinstance(error, Aborted)
    assert "restarted" in error.message
    again = Both(tasks["master", 0].target)
    assert again.run() == [3.0, 3.0]
    again.session.close()
