"""Which error of a step over tasks is told: causes, and not what followed from them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from runtime._ext.errors import Cancelled, Error, InvalidArgument, NotFound, Unavailable
from runtime._ext.executor import StepContext
from runtime.master import parts_run
from runtime.master.parts_run import PartAnswer, PartCall, PartsCall, StepFailure
from runtime.worker.derived import derived

OWN, ONE, TWO = (f"/job:{job}/replica:0/task:0" for job in ("own", "one", "two"))
TIMEOUT_S = 20.0
RULE = "=" * 21


class Member:
    """A task of a test: answers when it is told to, or when it is ended."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.done: Callable[[PartAnswer | None, BaseException | None], None] | None = None
        self.ended = threading.Event()
        self.is_deaf = False  # its own error comes before it hears of the end

    def run(self, graph_handle: str, step_id: int, call: PartCall, done: Any) -> Callable[[], None]:
        assert graph_handle == f"graph of {self.name}"
        self.done = done
        return self.end

    def end(self) -> None:
        self.ended.set()
        if not self.is_deaf:
            self.answer(Cancelled(f"{self.name} was given up"))

    def answer(self, error: BaseException | None = None, tensors: tuple[Any, ...] = ()) -> None:
        done, self.done = self.done, None
        if done is not None:
            done(None if error is not None else PartAnswer(list(tensors)), error)


class Call:
    """A call on three tasks.

    Attributes
    ----------
    members : dict of str to Member
    outcome : list
        Outputs and error, once it has ended.
    """

    def __init__(self) -> None:
        self.members = {name: Member(name) for name in (OWN, ONE, TWO)}
        self.outcome: list[Any] = []
        self.is_over = threading.Event()
        self.step = StepContext(7, None)
        handles = {name: f"graph of {name}" for name in self.members}

        def done(outputs: Any, error: Any) -> None:
            self.outcome.append((outputs, error))
            self.is_over.set()

        PartsCall(self.members, handles, OWN, PartCall(), self.step, done).start()  # type: ignore[arg-type]

    def text(self) -> tuple[type[Error], str]:
        """Return type and text of the error that is told."""
        assert self.is_over.wait(TIMEOUT_S)
        ((outputs, error),) = self.outcome
        assert outputs is None and isinstance(error, StepFailure)
        return type(error.error), error.error.message


@pytest.fixture
def call() -> Call:
    return Call()


def lost(task: str, text: str) -> Unavailable:
    error = Unavailable(text)
    error.lost_task = task  # type: ignore[attr-defined]
    return error


def test_outputs_are_those_of_the_own_task(call: Call) -> None:
    call.members[ONE].answer(tensors=("other",))
    call.members[OWN].answer(tensors=("mine",))
    assert not call.outcome
    call.members[TWO].answer()
    assert call.outcome == [(["mine"], None)]


def test_the_first_cause_ends_the_others_and_is_told(call: Call) -> None:
    call.members[ONE].answer(InvalidArgument("wrong"))
    assert all(call.members[name].ended.is_set() for name in (OWN, TWO))
    assert call.text() == (InvalidArgument, f"From {ONE}:\nwrong")


@pytest.mark.parametrize("mark", [derived, lambda error: type(error)(f"[_Derived_]{error.message}")])
def test_what_is_derived_waits_for_its_cause(call: Call, mark: Callable[[Error], Error],
                                             monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts_run, "_CAUSE_WAIT_S", 60.0)
    call.members[OWN].answer(mark(NotFound("missing there")))
    call.members[TWO].answer(mark(NotFound("missing there")))
    assert not call.members[ONE].ended.is_set()  # its error is on its way
    call.members[ONE].answer(NotFound("missing"))
    assert call.text() == (NotFound, f"From {ONE}:\nmissing")


def test_an_error_without_its_cause_is_told_without_its_mark(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts_run, "_CAUSE_WAIT_S", 0.05)
    call.members[TWO].answer(NotFound("[_Derived_]missing there"))
    assert call.members[ONE].ended.wait(TIMEOUT_S)
    assert call.text() == (NotFound, f"From {TWO}:\nmissing there")


def test_several_causes_are_listed_with_their_codes(call: Call) -> None:
    call.members[ONE].is_deaf = call.members[OWN].is_deaf = True
    call.members[TWO].answer(InvalidArgument("wrong"))
    call.members[ONE].answer(NotFound("missing"))
    call.members[OWN].answer(derived(NotFound("missing")))
    assert call.text() == (InvalidArgument, f"\n{RULE}\nINVALID_ARGUMENT: From {TWO}:\nwrong\nNOT_FOUND: From {ONE}:\n"
                                            f"missing\n{RULE}")


def test_a_lost_task_is_named_once_whoever_misses_it(call: Call) -> None:
    call.members[OWN].is_deaf = call.members[TWO].is_deaf = True
    call.members[OWN].answer(lost(ONE, "a tensor was awaited"))
    call.members[TWO].answer(lost(ONE, "another tensor was awaited"))
    call.members[ONE].answer(lost(ONE, "step 7 was awaited"))
    kind, text = call.text()
    assert kind is Unavailable
    assert text.startswith(f"From {ONE}:\n") and text.count("From ") == 1


def test_a_step_that_is_cancelled_ends_with_that(call: Call) -> None:
    error = Cancelled("the client has gone")
    call.step.cancel(error)
    assert call.outcome == [(None, error)]
    assert all(member.ended.is_set() for member in call.members.values())


def test_who_is_awaited_is_told(call: Call) -> None:
    call.members[ONE].answer()
    ((_, what, node),) = call.step.waits()
    assert (what, node) == (f"its parts on {OWN}, {TWO}", "")
