"""Steps over tasks against tasks of tests: which errors are told, which graphs are kept, what is cleaned up."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from runtime._ext.errors import Cancelled, Error, InvalidArgument, NotFound, Unavailable
from runtime._ext.executor import StepContext
from runtime.graph.prune import Selection
from runtime.master import parts_run
from runtime.master.distributed import DistributedStep
from runtime.master.partition import Parts
from runtime.master.parts_run import PartAnswer, PartCall, PartsCall, StepFailure
from runtime.worker.derived import derived, is_derived

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


def of_a_tensor(error: Error) -> Error:
    """Return an error as a worker of TensorFlow 2.21 tells it that was told it in place of a tensor."""
    return type(error)(f"{error.message}\nAdditional GRPC error information from remote target {ONE} while calling "
                       '/tensorflow.WorkerService/RecvTensor:\n:UNKNOWN:Error received from peer  {grpc_status:5, '
                       'grpc_message:"missing"}\n\t [[source_S3]]')


@pytest.mark.parametrize("mark", [derived, lambda error: type(error)(f"[_Derived_]{error.message}"), of_a_tensor],
                         ids=["trailer", "old-text", "tensorflow-text"])
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


def test_who_could_not_be_reached_for_a_tensor_is_a_cause(call: Call) -> None:
    error = of_a_tensor(Unavailable("Socket closed"))
    assert not is_derived(error)
    call.members[TWO].answer(error)
    assert call.members[ONE].ended.is_set()
    assert call.text() == (Unavailable, f"From {TWO}:\n{error.message}")


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


class Registrar(Member):
    """A task that registers graphs when it is told to, and counts those that it has."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.registering: list[Callable[[str | None, BaseException | None], None]] = []
        self.graphs: set[str] = set()
        self.cleaned: list[int] = []
        self._number = 0

    def register(self, graph_def: Any, collective_key: int, done: Any) -> None:
        self.registering.append(done)

    def registered(self, error: BaseException | None = None) -> None:
        done = self.registering.pop(0)
        if error is not None:
            done(None, error)
            return
        self._number += 1
        handle = f"graph {self._number} of {self.name}"
        self.graphs.add(handle)
        done(handle, None)

    def deregister(self, graph_handle: str) -> None:
        self.graphs.remove(graph_handle)

    def run(self, graph_handle: str, step_id: int, call: PartCall, done: Any) -> Callable[[], None]:
        assert graph_handle in self.graphs
        self.done = done
        return self.end

    def clean(self, step_id: int) -> None:
        self.cleaned.append(step_id)


@pytest.fixture
def members() -> dict[str, Registrar]:
    return {name: Registrar(name) for name in (OWN, ONE)}


@pytest.fixture
def distributed(members: dict[str, Registrar]) -> DistributedStep:
    parts = Parts(dict.fromkeys(members), [], [])
    return DistributedStep(Selection([], [], [], [], frozenset()), parts, members, OWN)  # type: ignore[arg-type]


def ended(members: dict[str, Registrar]) -> None:
    for member in members.values():
        member.answer()


def test_graphs_of_a_released_step_go_when_nothing_runs(members: dict[str, Registrar], distributed: DistributedStep
                                                        ) -> None:
    outcome: list[Any] = []
    for number in range(2):
        distributed.start(StepContext(number, None), [], lambda *result: outcome.append(result))
        for member in members.values():
            assert len(member.registering) == (number == 0)
            if not number:
                member.registered()
        if not number:
            ended(members)
    assert len(outcome) == 1
    distributed.release()
    assert all(len(member.graphs) == 1 for member in members.values())  # one still runs
    ended(members)
    assert outcome == [([], None)] * 2
    assert not any(member.graphs for member in members.values())
    # Whoever had found the step before runs it all the same.
    distributed.start(StepContext(3, None), [], lambda *result: outcome.append(result))
    for member in members.values():
        member.registered()
    ended(members)
    assert outcome == [([], None)] * 3
    assert not any(member.graphs for member in members.values())
    assert [member.cleaned for member in members.values()] == [[0, 1, 3]] * 2


def test_graphs_of_a_registration_that_failed_go_and_the_next_step_tries_again(
        members: dict[str, Registrar], distributed: DistributedStep) -> None:
    outcome: list[Any] = []
    distributed.start(StepContext(1, None), [], lambda *result: outcome.append(result))
    members[OWN].registered()
    members[ONE].registered(NotFound("no such op"))
    ((outputs, error),) = outcome
    assert outputs is None and str(error) == "no such op"
    assert not any(member.graphs for member in members.values())
    distributed.start(StepContext(2, None), [], lambda *result: outcome.append(result))
    for member in members.values():
        member.registered()
    ended(members)
    assert outcome[1] == ([], None)


def test_a_step_that_is_cancelled_while_its_graphs_are_registered_ends_at_once(
        members: dict[str, Registrar], distributed: DistributedStep) -> None:
    outcome: list[Any] = []
    step = StepContext(1, None)
    distributed.start(step, [], lambda *result: outcome.append(result))
    ((_, what, _),) = step.waits()
    assert what == f"the registration of its graphs on {ONE}, {OWN}"
    error = Cancelled("the client has gone")
    step.cancel(error)
    assert outcome == [(None, error)]
    distributed.release()
    for member in members.values():
        member.registered()
    assert not any(member.graphs for member in members.values())


@pytest.mark.parametrize("is_cancelled_before", [True, False])
def test_a_partial_run_of_a_cancelled_step_does_not_begin(members: dict[str, Registrar], distributed: DistributedStep,
                                                          is_cancelled_before: bool) -> None:
    step = StepContext(1, None)
    error = Cancelled("the session was closed")
    if is_cancelled_before:
        step.cancel(error)
    run = distributed.begin_partial(step)
    outcome: list[Any] = []
    if not is_cancelled_before:
        run.prepare(lambda problem: outcome.append(problem))
        step.cancel(error)
        assert outcome == [error]
    run.call([], [], False, lambda *result: outcome.append(result))
    assert outcome[-1] == (None, error)
    assert not any(member.cleaned for member in members.values())


def test_a_partial_run_is_cleaned_up_behind_its_last_call_or_its_cancellation(
        members: dict[str, Registrar], distributed: DistributedStep) -> None:
    outcome: list[Any] = []
    for number in range(2):
        step = StepContext(number, None)
        run = distributed.begin_partial(step)
        run.prepare(lambda problem: outcome.append(problem))
        if not number:
            for member in members.values():
                member.registered()
        run.call([], [], False, lambda *result: outcome.append(result))
        ended(members)
        assert not any(number in member.cleaned for member in members.values())
        if number:
            step.cancel(Cancelled("between its calls"))
        else:
            run.call([], [], True, lambda *result: outcome.append(result))
            ended(members)
        assert all(member.cleaned[-1] == number for member in members.values())
    assert outcome == [None, ([], None), ([], None), None, ([], None)]
    distributed.release()
    assert not any(member.graphs for member in members.values())
