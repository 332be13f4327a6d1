"""What becomes of results that are followed: each is told once, and nothing is left when nobody asks any more."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from runtime.errors import Unavailable
from runtime.objects.value import Value
from runtime.store import failpoints
from runtime.tasks import following
from runtime.tasks.creation import Refused
from runtime.tasks.filters import TaskFilter
from runtime.tasks.following import Follower
from runtime.tasks.model import ResultStatus, TaskRequest
from runtime.tasks.tasks import Tasks
from tests.leaks import run_async
from tests.tasks.plane import OPTIONS, acquire, open_plane, request

Story = Callable[[Tasks, "Ear"], Awaitable[None]]


class Ear:
    """A follower, and how often it has had news."""

    def __init__(self, tasks: Tasks) -> None:
        self.tasks = tasks
        self.num_news = 0
        self.follower = tasks.follower(self._heard)

    def _heard(self) -> None:
        self.num_news += 1

    async def submit(self, *requests: TaskRequest, session: str = "s", tag: object = 1) -> None:
        self.follower.expect(sum(len(one.expected_keys) for one in requests))
        await self.tasks.submit(session, requests, None, self.follower, tag)

    def take(self, limit: int = 1000) -> dict[str, bytes | None]:
        """Return the values at hand by key."""
        taken = self.follower.take(limit)
        return {one.key: None if one.value is None else one.value.data for one in taken}


def on_plane(story: Story, folder: Path | None = None) -> None:
    """Tell a story with a session; without a folder, writes that are asked for together are one group."""

    async def work() -> None:
        async with open_plane(folder) as tasks:
            await tasks.create_session("s", OPTIONS)
            ear = Ear(tasks)
            await story(tasks, ear)
            ear.follower.leave()
            assert tasks.waiting.num_waiting == 0 and not tasks.waiting._at_close

    run_async(work)


async def succeed(tasks: Tasks, value: bytes) -> None:
    """Let the next task succeed as a batch's do: what all of its keys get is told along."""
    lease = await acquire(tasks)
    await tasks.succeed_all([(lease, dict.fromkeys(lease.task.expected_keys, Value(value)))])


def test_results_are_told_with_their_values_and_tags() -> None:
    async def story(tasks: Tasks, ear: Ear) -> None:
        await ear.submit(request("a", "x", "y"), tag="first")
        await ear.submit(request("b"), tag="second")
        assert ear.follower.num_awaited == 3 and not ear.follower.has_news and not ear.num_news
        await succeed(tasks, b"1")
        assert ear.follower.has_news and ear.num_news == 2
        # Values of several are read again; `Completions` has those of tasks with one result.
        assert [tuple(one) for one in ear.follower.take(10)] == [("first", "s", "x", None), ("first", "s", "y", None)]
        assert ear.follower.num_awaited == 1 and tasks.waiting.num_waiting == 1
        await succeed(tasks, b"2")
        assert ear.take() == {"b": b"2"}
        # What others do in the session costs nothing now.
        assert ear.follower.num_awaited == 0 and tasks.waiting.num_waiting == 0

    on_plane(story)


def test_what_others_submit_in_the_same_session_is_not_told() -> None:
    async def story(tasks: Tasks, ear: Ear) -> None:
        other = Ear(tasks)
        await ear.submit(request("mine"))
        await other.submit(request("theirs"))
        await tasks.create_tasks("s", [request("nobody's")])
        for value in (b"1", b"2", b"3"):
            await succeed(tasks, value)
        assert (ear.take(), other.take()) == ({"mine": b"1"}, {"theirs": b"2"})
        other.follower.leave()

    on_plane(story)


def test_a_result_is_offered_to_nobody_but_who_follows_it(monkeypatch: pytest.MonkeyPatch) -> None:
    offered: list[str] = []
    settle = following._Awaited.settle

    def noted(self: following._Awaited, key: str, value: Value | None = None) -> None:
        offered.append(key)
        settle(self, key, value)

    monkeypatch.setattr(following._Awaited, "settle", noted)

    async def story(tasks: Tasks, ear: Ear) -> None:
        ears = [Ear(tasks) for _ in range(20)]
        for index, one in enumerate(ears):
            await one.submit(request(f"t{index}"))
        for _ in ears:
            await succeed(tasks, b"v")
        assert [list(one.take()) for one in ears] == [[f"t{index}"] for index in range(20)]
        for one in ears:
            one.follower.leave()

    on_plane(story)
    assert sorted(offered) == sorted(f"t{index}" for index in range(20))


def test_take_returns_the_oldest_up_to_its_limit() -> None:
    async def story(tasks: Tasks, ear: Ear) -> None:
        await ear.submit(*(request(f"t{index}") for index in range(5)))
        for _ in range(5):
            await succeed(tasks, b"v")
        assert list(ear.take(2)) == ["t0", "t1"]
        assert ear.follower.has_news and ear.follower.num_awaited == 3
        assert list(ear.take(2)) == ["t2", "t3"]
        assert list(ear.take(2)) == ["t4"]
        assert not ear.follower.has_news and ear.take(2) == {}

    on_plane(story)


def test_values_at_hand_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "_KEPT_BYTES", 100)

    async def story(tasks: Tasks, ear: Ear) -> None:
        async def settle(*names: str) -> None:
            await ear.submit(*map(request, names))
            for _ in names:
                await succeed(tasks, bytes(40))

        await settle("a", "b", "c")
        first = ear.follower.take(1)
        await settle("d", "e")
        taken = first + ear.follower.take(10)
        assert [(one.key, one.value is not None) for one in taken] == [
            ("a", True), ("b", True), ("c", False), ("d", True), ("e", False)
        ]
        # Those are read again.
        views = [view for _, view in tasks.followed(taken)]
        assert [view and view.value.data for view in views] == [bytes(40)] * 5
        await settle("f", "g")
        assert ear.take() == {"f": bytes(40), "g": bytes(40)}

    on_plane(story)


def test_large_and_aborted_results_are_read_when_they_are_told(tmp_path: Path) -> None:
    async def story(tasks: Tasks, ear: Ear) -> None:
        await ear.submit(request("large"), request("bad"), request("small"))
        lease = await acquire(tasks)
        writer = lease.result_writer()
        await writer.write(bytes(100_000))
        await lease.succeed({"large": await writer.finish()})
        await (await acquire(tasks)).report_error("no")
        await succeed(tasks, b"s")
        taken = ear.follower.take(10)
        assert [(one.key, one.value is not None) for one in taken] == [
            ("large", False), ("bad", False), ("small", True)
        ]
        large, bad, small = [view for _, view in tasks.followed(taken)]
        assert large and large.status is ResultStatus.COMPLETED and large.value.size == 100_000
        assert bad and (bad.status, bad.owner, bad.owner_error) == (ResultStatus.ABORTED, "bad", "no")
        assert small and small.value.data == b"s"

    on_plane(story, tmp_path)


def test_results_of_a_deleted_session_are_told_as_gone() -> None:
    async def story(tasks: Tasks, ear: Ear) -> None:
        await ear.submit(request("bad"), request("small"))
        await (await acquire(tasks)).report_error("no")
        await succeed(tasks, b"s")
        await tasks.retention.delete("s")
        bad, small = tasks.followed(ear.follower.take(10))
        assert (bad[0].key, bad[1]) == ("bad", None)
        assert small[1] is not None and small[1].value.data == b"s"
        assert ear.follower.num_awaited == 0

    on_plane(story)


@pytest.mark.parametrize("is_threaded", [False, True], ids=["memory", "file"])
def test_tasks_that_fail_as_they_are_made_are_told(tmp_path: Path, is_threaded: bool) -> None:
    async def story(tasks: Tasks, ear: Ear) -> None:
        await tasks.create_tasks("s", [request("bad")])
        await (await acquire(tasks)).report_error("no")
        await ear.submit(request("after", needs=("bad",)), request("last", "x", "y", needs=("after",)))
        assert ear.take() == {"after": None, "x": None, "y": None}
        assert ear.follower.num_awaited == 0 and tasks.waiting.num_waiting == 0

    on_plane(story, tmp_path if is_threaded else None)


def test_what_ends_in_the_group_that_makes_it_is_told() -> None:
    async def story(tasks: Tasks, ear: Ear) -> None:
        await tasks.create_tasks("s", [request("first")])
        lease = await acquire(tasks)
        # One group: the tasks are made, then one is canceled, and what the other waits for fails.
        await asyncio.gather(
            ear.submit(request("canceled"), request("after", needs=("first",))),
            tasks.cancel_tasks(TaskFilter(tasks=("canceled",))),
            lease.report_error("no"),
        )
        assert ear.take() == {"canceled": None, "after": None}
        assert ear.follower.num_awaited == 0

    on_plane(story)


def test_what_ends_with_its_session_in_the_group_that_makes_it_is_told() -> None:
    async def story(tasks: Tasks, ear: Ear) -> None:
        await asyncio.gather(ear.submit(request("a")), tasks.cancel_session("s"))
        assert ear.take() == {"a": None}

    on_plane(story)


def test_refused_tasks_are_not_followed() -> None:
    async def story(tasks: Tasks, ear: Ear) -> None:
        await tasks.create_tasks("s", [request("a")])
        with pytest.raises(Refused) as refused:
            await tasks.submit("s", [request("b"), request("a")], None, ear.follower, 1)
        assert refused.value.ids == ("a",)
        await succeed(tasks, b"1")
        assert ear.take() == {} and tasks.waiting.num_waiting == 0

    on_plane(story)


def test_who_has_left_is_told_nothing() -> None:
    async def story(tasks: Tasks, ear: Ear) -> None:
        await ear.submit(request("before"))
        ear.follower.leave()
        ear.follower.leave()
        await ear.submit(request("after"))
        assert tasks.waiting.num_waiting == 0
        await succeed(tasks, b"1")
        await succeed(tasks, b"2")
        assert not ear.follower.has_news and not ear.num_news

    on_plane(story)


def test_a_server_that_stops_tells_those_who_wait_for_nothing_too() -> None:
    async def work() -> None:
        async with open_plane() as tasks:
            await tasks.create_session("s", OPTIONS)
            idle, busy = Ear(tasks), Ear(tasks)
            await busy.submit(request("a"))
            assert not idle.follower.is_closed and not busy.follower.is_closed
            tasks.waiting.close()
            assert [(ear.follower.is_closed, ear.num_news) for ear in (idle, busy)] == [(True, 1), (True, 1)]
            late = Follower(tasks.waiting, lambda: None)
            assert late.is_closed
            for follower in (idle.follower, busy.follower, late):
                follower.leave()

    run_async(work)


def test_a_task_that_cannot_be_written_is_not_followed_though_it_may_have_begun(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(name: str) -> None:
        if name == "store.commit.before":
            raise OSError(5, "no disk")

    async def story(tasks: Tasks, ear: Ear) -> None:
        acquiring = asyncio.ensure_future(tasks.acquire("agent"))
        await asyncio.sleep(0.05)
        with monkeypatch.context() as patch:
            patch.setattr(failpoints, "hit", fail)
            with pytest.raises(Unavailable):
                await ear.submit(request("a"))
        (lease,) = await acquiring
        assert lease.task.id == "a" and lease.is_lost and lease.interrupted.is_set()
        assert tasks.waiting.num_waiting == 0 and not ear.follower.has_news
        # It can be submitted again, and runs again.
        await ear.submit(request("a"))
        await succeed(tasks, b"1")
        assert ear.take() == {"a": b"1"}

    on_plane(story)
