"""The exchange of a silent server's connection, while threads are in the midst of calls."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from runtime.client import watched
from runtime.client.access import Access
from runtime.client.watched import WatchedChannel


class Channel:
    """A channel whose stubs are itself; something may happen while it makes one."""

    def __init__(self) -> None:
        self.is_closed = False
        self.meanwhile: Callable[[], object] | None = None

    def unary_unary(self, path: str) -> Channel:
        meanwhile, self.meanwhile = self.meanwhile, None
        if meanwhile is not None:
            meanwhile()
        return self

    def close(self) -> None:
        self.is_closed = True


@pytest.fixture
def shared(monkeypatch: pytest.MonkeyPatch) -> Iterator[WatchedChannel]:
    """A channel that nothing watches but the test."""
    monkeypatch.setattr(watched, "open_channel", lambda address, access: Channel())
    found = WatchedChannel.acquire("grpc://127.0.0.1:1", Access(), 0.0)
    yield found
    found.release()


def test_no_stub_of_a_lost_connection_is_kept_for_later_calls(shared: WatchedChannel) -> None:
    old = shared._channel
    old.meanwhile = shared._lose
    assert shared.stub("/a") is old and old.is_closed
    assert shared.stub("/a") is shared._channel and not shared._channel.is_closed


def test_a_call_that_begins_while_its_connection_is_exchanged_is_told_why_it_ends(
        shared: WatchedChannel, monkeypatch: pytest.MonkeyPatch) -> None:
    old = shared._channel
    ended = []
    calls = []

    def open_channel(address: str, access: Access) -> Channel:
        call = shared.awaiting(lambda: "a step", lambda: ended.append(old.is_closed))
        calls.append(call.__enter__())
        assert shared.stub("/a") is old
        return Channel()

    monkeypatch.setattr(watched, "open_channel", open_channel)
    shared._lose()
    with shared.awaiting(lambda: "another step") as later:
        assert later.lost is None
    (call,) = calls
    assert "grpc://127.0.0.1:1 has not answered for 0 s; a step was awaited" in str(call.lost)
    assert ended == [True]  # behind the connection's end
    call.__exit__(None, None, None)


def test_a_connection_that_nobody_uses_any_more_is_not_opened_again(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    monkeypatch.setattr(watched, "open_channel", lambda address, access: made.append(Channel()) or made[-1])
    shared = WatchedChannel.acquire("grpc://127.0.0.1:1", Access(), 0.0)
    shared.release()
    shared._lose()
    assert [channel.is_closed for channel in made] == [True]
