"""runtime.v1.Submissions by raw stubs, on both transports: what is answered and told, whatever happens meanwhile."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

import grpc
import pytest

from runtime import config, wire
from runtime.edge.listener import Listener
from runtime.tasks import submissions_service
from runtime.tasks.leases import Lease
from tests.conformance.armonik.submitter import (
    A,
    Submitter,
    fails,
    of_session,
    options,
    plane,
    report_error,
    succeed,
    task,
)
from tests.leaks import run_async
from tests.processes import start_server

PATH = "/runtime.v1.Submissions/Run"
TIMEOUT_S = 30.0
R = wire.runtime_v1
Code = grpc.StatusCode


@pytest.fixture(params=["native", "grpc"])
def transport(request: pytest.FixtureRequest) -> str:
    """Each transport in turn: what a client sees must be the same."""
    return str(request.param)


class Stream:
    """A call of Submissions.

    Attributes
    ----------
    answers : dict of int to SubmissionAnswer
        By number, in the order in which they came.
    results : dict of str to CollectedResult
        By key, in the order in which they came.
    """

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.call = channel.stream_stream(
            PATH, request_serializer=_serialized, response_deserializer=R.SubmissionNews.FromString
        )(timeout=TIMEOUT_S)
        self.number = 0
        self.answers: dict[int, Any] = {}
        self.results: dict[str, Any] = {}
        self.numbers: dict[str, int] = {}

    async def send(self, request: bytes, **fields: Any) -> int:
        """Send a submission, and return its number."""
        self.number += 1
        await self.call.write(R.Submission(**{"number": self.number, "request": request, **fields}))
        return self.number

    async def submit(
        self, *requests: Any, session: str = "s", tells: bool = True, inline_bytes: int = 0, **changes: Any
    ) -> int:
        """Submit tasks, and return the number."""
        data = creation(*requests, session=session, **changes)
        return await self.send(data, tells_results=tells, inline_bytes=inline_bytes)

    async def read(self) -> bool:
        """Take one message; False at the end."""
        news = await self.call.read()
        if news is grpc.aio.EOF:
            return False
        assert news.answer or news.result, "it says something"
        for answer in news.answer:
            assert answer.number not in self.answers, "it is answered once"
            self.answers[answer.number] = answer
        for told in news.result:
            assert told.result.key not in self.results, "it is told once"
            self.results[told.result.key] = told.result
            self.numbers[told.result.key] = told.number
        return True

    async def answer(self, number: int) -> Any:
        """Read until a submission is answered."""
        while number not in self.answers:
            assert await self.read(), "the stream has ended"
        return self.answers[number]

    async def result(self, key: str) -> Any:
        """Read until a result is told."""
        while key not in self.results:
            assert await self.read(), "the stream has ended"
        return self.results[key]

    async def end(self) -> grpc.StatusCode:
        """Read to the end, and return the status."""
        while await self.read():
            pass
        return await self.call.code()


def _serialized(message: Any) -> bytes:
    return bytes(message.SerializeToString())


def creation(*requests: Any, session: str = "s", **changes: Any) -> bytes:
    message = A.CreateSmallTaskRequest(session_id=session, task_options=options(**changes), task_requests=requests)
    return bytes(message.SerializeToString())


Story = Callable[[Submitter, Stream], Coroutine[Any, Any, None]]


def on_plane(folder: Path, transport: str, story: Story) -> None:
    """Tell a story with a server that has one session, and check that nobody waits afterwards."""

    async def work() -> None:
        async with plane(folder, transport=transport) as submitter:
            stream = Stream(submitter.channel)
            await story(submitter, stream)
            stream.call.cancel()
            await nobody_waits(submitter)

    run_async(work)


async def nobody_waits(submitter: Submitter) -> None:
    waiting = submitter.tasks.waiting
    async with asyncio.timeout(TIMEOUT_S):
        while waiting.num_waiting or waiting._at_close:
            await asyncio.sleep(0.005)


def test_tasks_are_made_in_order_and_each_submission_is_answered(tmp_path: Path, transport: str) -> None:
    async def story(submitter: Submitter, stream: Stream) -> None:
        # Three times as many as are open at once, before any answer is read.
        names = [f"t{index:03}" for index in range(200)]
        for name in names:
            await stream.submit(task(name), tells=False)
        await stream.call.done_writing()
        assert await stream.end() == Code.OK
        assert list(stream.answers) == list(range(1, 201)) and not stream.results
        assert all(not answer.code and not answer.refused_id for answer in stream.answers.values())
        leases = await submitter.tasks.acquire("agent", 200)
        assert [lease.task.id for lease in leases] == names

    on_plane(tmp_path, transport, story)


def test_refused_ids_are_named_and_nothing_is_made(tmp_path: Path, transport: str) -> None:
    async def story(submitter: Submitter, stream: Stream) -> None:
        await submitter.create(task("old", "key"))
        by_id = await stream.answer(await stream.submit(task("a"), task("old")))
        by_key = await stream.answer(await stream.submit(task("b", "key"), task("c")))
        assert [(list(answer.refused_id), answer.code) for answer in (by_id, by_key)] == [(["old"], 0), (["b"], 0)]
        assert await submitter.statuses("a", "b", "c") == {}
        # Nothing of them is awaited any more.
        await stream.answer(await stream.submit(task("a")))
        async with submitter.agents(succeed):
            assert (await stream.result("a")).value == b"a:payload"
            await stream.call.done_writing()
            assert await stream.end() == Code.OK
        assert list(stream.results) == ["a"]

    on_plane(tmp_path, transport, story)


def test_errors_name_the_field_and_leave_the_stream_usable(tmp_path: Path, transport: str) -> None:
    async def story(submitter: Submitter, stream: Stream) -> None:
        await submitter.session("canceled")
        await submitter.call("CancelSession", A.Session(id="canceled"))
        wrong: list[tuple[dict[str, Any], Code, str]] = [
            ({"request": b"\xff"}, Code.INVALID_ARGUMENT, "CreateSmallTaskRequest"),
            ({"request": creation(task("x"), session="")}, Code.INVALID_ARGUMENT, "session_id: must not be empty"),
            ({"request": creation(task("x"), session="nothing")}, Code.NOT_FOUND, "session 'nothing' is not known"),
            ({"request": creation(task("x"), session="canceled")}, Code.FAILED_PRECONDITION, "'canceled' is canceled"),
            ({"request": creation(task("x"), max_retries=-1)}, Code.INVALID_ARGUMENT, "max_retries"),
            ({"request": creation(task("x"), duration_s=0)}, Code.INVALID_ARGUMENT, "max_duration"),
            ({"request": creation(task(""))}, Code.INVALID_ARGUMENT, "id"),
            ({"request": creation()}, Code.INVALID_ARGUMENT, "task_requests"),
            ({"request": creation(task("x", payload=bytes(84_001)))}, Code.INVALID_ARGUMENT, "payload"),
            ({"request": creation(task("x")), "inline_bytes": (1 << 20) + 1}, Code.INVALID_ARGUMENT,
             "inline_bytes: 1048577"),
        ]
        for fields, code, text in wrong:
            answer = await stream.answer(await stream.send(**{"tells_results": True, **fields}))
            assert (answer.code, text in answer.message) == (code.value[0], True), answer
            assert not answer.refused_id
        assert not (await stream.answer(await stream.submit(task("x")))).code
        async with submitter.agents(succeed):
            assert (await stream.result("x")).status == "COMPLETED"

    on_plane(tmp_path, transport, story)


@pytest.mark.parametrize("numbers", [(0,), (2, 2), (2, 1)], ids=str)
def test_numbers_that_do_not_grow_end_the_stream(tmp_path: Path, transport: str, numbers: Sequence[int]) -> None:
    async def story(submitter: Submitter, stream: Stream) -> None:
        for index, number in enumerate(numbers):
            await stream.send(creation(task(f"t{index}")), number=number)
        async with fails(Code.INVALID_ARGUMENT, f"number: {numbers[-1]} behind {(0, *numbers)[-2]}; it must grow"):
            while await stream.read():
                pass

    on_plane(tmp_path, transport, story)


def test_what_is_no_submission_ends_the_stream(tmp_path: Path, transport: str) -> None:
    async def story(submitter: Submitter, stream: Stream) -> None:
        call = submitter.channel.stream_stream(PATH)(iter([b"\xff"]), timeout=TIMEOUT_S)
        async with fails(Code.INVALID_ARGUMENT, "Submission"):
            await call.read()

    on_plane(tmp_path, transport, story)


def test_a_stream_awaits_4096_results(tmp_path: Path, transport: str) -> None:
    async def story(submitter: Submitter, stream: Stream) -> None:
        keys = [f"key{index}" for index in range(4097)]
        for wanted, code in ((keys, 8), (keys[1:], 0), (keys[:1], 8)):
            answer = await stream.answer(await stream.submit(task(f"t{len(wanted)}", *wanted)))
            assert answer.code == code
            assert not code or answer.message.startswith("tells_results: 4097 results would be awaited"), answer
        # What nobody is told of is made all the same, and room comes again.
        assert not (await stream.answer(await stream.submit(task("untold"), tells=False))).code
        async with submitter.agents(succeed):
            await stream.result("key4096")
            assert not (await stream.answer(await stream.submit(task("told")))).code
            await stream.result("told")
        assert set(stream.results) == {*keys[1:], "told"}

    on_plane(tmp_path, transport, story)


async def by_name(lease: Lease) -> None:
    """Produce as many bytes as the task's id says, or fail."""
    if lease.task.id.startswith("fail"):
        await report_error(lease)
    else:
        writer = lease.result_writer()
        await writer.write(bytes(int(lease.task.id.partition("-")[0])))
        value = await writer.finish()
        await lease.succeed(dict.fromkeys(lease.task.expected_keys, value))


def test_values_are_told_along_up_to_the_size_that_was_asked_for(tmp_path: Path, transport: str) -> None:
    async def story(submitter: Submitter, stream: Stream) -> None:
        async with submitter.agents(by_name):
            for name, inline_bytes, has_value in (
                ("0-empty", 0, True), ("20-small", 0, True), ("20-over", 19, False), ("20-even", 20, True),
                ("70000-over", 0, False), ("60000-object", 0, True), ("70000-object", 70000, True),
            ):
                number = await stream.submit(task(name), inline_bytes=inline_bytes)
                result = await stream.result(name)
                size = int(name.partition("-")[0])
                assert (result.status, result.num_bytes, stream.numbers[name]) == ("COMPLETED", size, number)
                assert result.HasField("value") == has_value
                assert result.value == (bytes(size) if has_value else b"")
                assert not (await stream.answer(number)).code

    on_plane(tmp_path, transport, story)


def test_failures_are_told_with_the_attempt_that_failed_and_its_text(tmp_path: Path, transport: str) -> None:
    async def story(submitter: Submitter, stream: Stream) -> None:
        async with submitter.agents(by_name):
            await stream.submit(task("fail", "one", "two"), max_retries=1)
            for key in ("one", "two"):
                result = await stream.result(key)
                assert (result.status, result.owner_status, result.error) == ("ABORTED", "ERROR", "it went wrong")
                assert result.owner_id == "fail" and not result.HasField("value")
            # It has failed in the same write that makes it, and so has what waits for it.
            await stream.submit(task("fail-after", needs=("two",)), task("fail-last", needs=("fail-after",)))
            for key in ("fail-after", "fail-last"):
                result = await stream.result(key)
                assert (result.status, result.owner_id) == ("ABORTED", key)
                assert "One of the input data is aborted" in result.error

    on_plane(tmp_path, transport, story)


def test_only_results_that_were_asked_for_are_told(tmp_path: Path, transport: str) -> None:
    async def story(submitter: Submitter, stream: Stream) -> None:
        await submitter.create(task("theirs"))
        await stream.submit(task("mine", "a", "b"))
        await stream.submit(task("untold"), tells=False)
        other = Stream(submitter.channel)
        await other.submit(task("others"))
        async with submitter.agents(succeed):
            assert (await other.result("others")).value == b"others:payload"
            await stream.call.done_writing()
            assert await stream.end() == Code.OK
        assert {key: result.value for key, result in stream.results.items()} == {"a": b"a:payload", "b": b"b:payload"}
        assert set(stream.numbers.values()) == {1}
        other.call.cancel()

    on_plane(tmp_path, transport, story)


def test_results_of_several_sessions_and_of_one_that_is_canceled(tmp_path: Path, transport: str) -> None:
    async def story(submitter: Submitter, stream: Stream) -> None:
        await submitter.session("other")
        await stream.submit(task("t"), session="other")
        await stream.submit(task("u"))
        await stream.answer(2)
        await submitter.call("CancelSession", A.Session(id="other"))
        result = await stream.result("t")
        assert (result.status, result.owner_id, result.owner_status) == ("ABORTED", "t", "CANCELED")
        async with submitter.agents(succeed):
            assert (await stream.result("u")).value == b"u:payload"

    on_plane(tmp_path, transport, story)


def test_a_closed_stream_ends_when_everything_is_told(tmp_path: Path, transport: str) -> None:
    async def story(submitter: Submitter, stream: Stream) -> None:
        go = asyncio.Event()

        async def handler(lease: Lease) -> None:
            await go.wait()
            await succeed(lease)

        async with submitter.agents(handler, 3):
            for name in "abc":
                await stream.submit(task(name))
            await stream.call.done_writing()
            await stream.answer(3)
            assert not stream.results and not stream.call.done()
            go.set()
            assert await stream.end() == Code.OK
        assert set(stream.results) == set("abc")

    on_plane(tmp_path, transport, story)


def test_a_stream_without_submissions_ends_at_once(tmp_path: Path, transport: str) -> None:
    async def story(submitter: Submitter, stream: Stream) -> None:
        await stream.call.done_writing()
        assert await stream.end() == Code.OK

    on_plane(tmp_path, transport, story)


def test_tasks_go_on_without_the_client_that_has_submitted_them(tmp_path: Path, transport: str) -> None:
    async def story(submitter: Submitter, stream: Stream) -> None:
        names = [f"t{index}" for index in range(20)]
        for name in names:
            await stream.submit(task(name))
        await stream.answer(20)
        assert submitter.tasks.waiting.num_waiting == 20
        stream.call.cancel()
        await nobody_waits(submitter)
        async with submitter.agents(succeed):
            assert await submitter.available("t19") is None
        assert set((await submitter.statuses(*names)).values()) == {"COMPLETED"}

    on_plane(tmp_path, transport, story)


@pytest.fixture
def streams(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The server's sides of the calls, to look inside."""
    found: list[Any] = []

    class Watched(submissions_service._Stream):
        most_answers = most_bytes = 0

        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            found.append(self)

        def _news_came(self) -> None:
            self.most_answers = max(self.most_answers, len(self._answers))
            self.most_bytes = max(self.most_bytes, self._follower._kept_bytes)
            super()._news_came()

    monkeypatch.setattr(submissions_service, "_Stream", Watched)
    return found


def test_a_slow_reader_holds_a_bounded_part_of_its_results(
    tmp_path: Path, transport: str, streams: list[Any]
) -> None:
    async def story(submitter: Submitter, stream: Stream) -> None:
        # 9.6 MB of values that lie in no objects.
        names = [f"16000-{index}" for index in range(600)]
        async with submitter.agents(by_name, 4):
            for start in range(0, 600, 100):
                await stream.submit(*map(task, names[start : start + 100]))
            async with asyncio.timeout(TIMEOUT_S):
                while await submitter.counts(of_session("s")) != {"COMPLETED": 600}:
                    await asyncio.sleep(0.02)
            other = Stream(submitter.channel)
            await other.submit(task("5-other"))
            assert (await other.result("5-other")).value == bytes(5)
            other.call.cancel()
        slow = streams[0]
        assert slow.most_bytes <= 4 << 20
        assert len(slow._results) <= 256 and slow._follower.has_news, "it has not read"
        await stream.call.done_writing()
        assert await stream.end() == Code.OK
        assert set(stream.results) == set(names)
        assert all(result.value == bytes(16000) for result in stream.results.values())

    on_plane(tmp_path, transport, story)


def test_nothing_is_taken_from_who_does_not_read_answers(tmp_path: Path, transport: str, streams: list[Any]) -> None:
    async def story(submitter: Submitter, stream: Stream) -> None:
        # Each is refused with its id, so that answers are as large as submissions.
        data = creation(task("x" * 20_000))
        await submitter.create(task("x" * 20_000))

        async def send() -> None:
            for _ in range(1000):
                await stream.send(data)
            await stream.call.done_writing()

        sending = asyncio.ensure_future(send())
        async with asyncio.timeout(TIMEOUT_S):
            while not streams or len(streams[0]._answers) < 64 and not sending.done():
                await asyncio.sleep(0.005)
        for _ in range(50):  # others are not disturbed, and it is not read meanwhile
            assert await submitter.statuses("x" * 20_000) == {"x" * 20_000: "SUBMITTED"}
        assert await stream.end() == Code.OK
        await sending
        assert streams[0].most_answers == 64
        assert list(stream.answers) == list(range(1, 1001))
        assert all(len(answer.refused_id) == 1 for answer in stream.answers.values())

    on_plane(tmp_path, transport, story)


def test_a_mistake_of_ours_ends_the_stream(
    tmp_path: Path, transport: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story(submitter: Submitter, stream: Stream) -> None:
        await stream.answer(await stream.submit(task("t")))

        def broken(*_: object) -> None:
            raise KeyError("ours")

        monkeypatch.setattr(submitter.tasks, "followed", broken)
        async with submitter.agents(succeed), fails(Code.INTERNAL, ""):
            while await stream.read():
                pass

    on_plane(tmp_path, transport, story)


@pytest.mark.parametrize("is_idle", [False, True], ids=["waiting", "idle"])
def test_a_server_that_stops_lets_streams_go(tmp_path: Path, transport: str, is_idle: bool) -> None:
    async def work() -> None:
        for turn in range(2):
            settings = config.load(
                {"listen": "127.0.0.1:0", "data_dir": tmp_path, "services": ("task",), "transport": transport},
                {}, user_file=False,
            ).settings
            listener = Listener(settings)
            await listener.start()
            task_plane: Any = listener.plane("task")
            tasks = await task_plane.tasks()
            async with grpc.aio.insecure_channel(listener.address) as channel:
                submitter = Submitter(channel, task_plane, tasks, listener.address)
                if turn == 0:
                    await submitter.session()
                    stream = Stream(channel)
                    await stream.answer(await stream.submit(task("t"), tells=not is_idle))
                    began = time.monotonic()
                    stopping = asyncio.ensure_future(listener.stop(20.0))
                    async with fails(Code.UNAVAILABLE, "the server stops"):
                        await stream.read()
                    await stopping
                    assert time.monotonic() - began < 5.0
                else:
                    # The next one is asked.
                    async with submitter.agents(succeed):
                        collect = channel.unary_stream(
                            "/runtime.v1.Results/Collect", response_deserializer=R.CollectReply.FromString
                        )
                        request = R.CollectRequest(session_id="s", key=["t"]).SerializeToString()
                        replies = [reply async for reply in collect(request, timeout=TIMEOUT_S)]
                        assert [result.value for reply in replies for result in reply.result] == [b"t:payload"]
                    await listener.stop(0.0)

    run_async(work)


def test_what_is_being_made_when_the_server_stops_is_answered(tmp_path: Path, transport: str) -> None:
    async def work() -> None:
        async with plane(tmp_path, transport=transport) as submitter:
            stream = Stream(submitter.channel)
            await stream.answer(await stream.submit(task("first")))
            submit = submitter.tasks.submit

            def stopping(*args: Any) -> Any:
                made = submit(*args)
                submitter.plane.drain()
                return made

            submitter.tasks.submit = stopping  # type: ignore[method-assign]
            number = await stream.submit(task("last"))
            async with fails(Code.UNAVAILABLE, "the server stops"):
                while await stream.read():
                    pass
            assert stream.answers[number].code == 0
            assert await submitter.statuses("last") == {"last": "SUBMITTED"}

    run_async(work)


def test_what_was_answered_outlives_a_killed_server(tmp_path: Path) -> None:
    async def submit(address: str) -> int:
        async with grpc.aio.insecure_channel(address) as channel:
            submitter = Submitter(channel, None, None, address)  # type: ignore[arg-type]
            await submitter.session()
            stream = Stream(channel)
            for index in range(300):
                await stream.submit(task(f"t{index}"))
            await stream.answer(100)
            first.process.kill()
            with pytest.raises(grpc.aio.AioRpcError) as error:
                while await stream.read():
                    pass
            assert error.value.code() == Code.UNAVAILABLE
            return len(stream.answers)

    async def found(address: str) -> dict[str, str]:
        async with grpc.aio.insecure_channel(address) as channel:
            submitter = Submitter(channel, None, None, address)  # type: ignore[arg-type]
            return await submitter.statuses(*(f"t{index}" for index in range(300)))

    with start_server(tmp_path, "--services", "task") as first:
        num_answered = run_async(lambda: submit(first.address))
    with start_server(tmp_path, "--services", "task") as second:
        statuses = run_async(lambda: found(second.address))
    assert {f"t{index}" for index in range(num_answered)} <= set(statuses)
    assert set(statuses) == {f"t{index}" for index in range(len(statuses))}, "none was left out"
    assert set(statuses.values()) == {"SUBMITTED"}
