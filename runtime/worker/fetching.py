"""The tensors that a RunGraph is answered with: taken from the step's meeting place, behind its end or as they come."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from runtime._ext.errors import Internal, InvalidArgument

if TYPE_CHECKING:
    from runtime._ext.rendezvous import Rendezvous
    from runtime.worker.exchange import Sent
    from runtime.worker.session import Answered, GraphRun

__all__ = ["collect", "take"]


def take(rendezvous: Rendezvous, step_id: int, keys: Sequence[str], error: BaseException | None, answered: Answered
         ) -> None:
    """Answer a step that has ended with the tensors it was asked for: all of them must be there."""
    if error is not None:
        answered(None, error)
        return
    found: list[Sent] = []
    for key in keys:
        outcome = _Outcome()
        waiter = rendezvous.receive(key, outcome)
        if waiter is not None:
            rendezvous.forget(waiter)
            answered(None, Internal(f"the step has ended without a value for {key}"))
            return
        sent, is_dead, problem = outcome.found
        if problem is not None or is_dead:
            answered(None, problem or Internal(f"Failed to fetch outputs for step {step_id}. (Original error message: "
                                               f"The tensor returned for {key} was not valid.)"))
            return
        found.append(sent)
    answered(found, None)


class _Outcome:
    """Keeps what a rendezvous hands over at once."""

    found: tuple[Any, bool, BaseException | None]

    def __call__(self, sent: Any, is_dead: bool, error: BaseException | None) -> None:
        self.found = (sent, is_dead, error)


def collect(rendezvous: Rendezvous, keys: Sequence[str], answered: Answered, run: GraphRun | None) -> None:
    """Answer a call of a partial run when its tensors are there, and the step has ended where `run` is given."""
    lock = threading.Lock()
    found: dict[int, Sent] = {}
    missing = len(keys) + (run is not None)
    is_answered = missing == 0
    if is_answered:
        answered([], None)
        return

    def count(error: BaseException | None) -> None:
        nonlocal missing, is_answered
        with lock:
            if is_answered:
                return
            missing -= 1
            is_answered = error is not None or missing == 0
            if not is_answered:
                return
        if error is not None:
            answered(None, error)
        else:
            answered([found[index] for index in range(len(keys))], None)

    def taker(index: int, key: str) -> Callable[[Any, bool, BaseException | None], None]:
        def arrived(sent: Any, is_dead: bool, error: BaseException | None) -> None:
            if is_dead and error is None:
                error = InvalidArgument(f"The tensor returned for {key} was not valid.")
            found[index] = sent
            count(error)

        return arrived

    for index, key in enumerate(keys):
        rendezvous.receive(key, taker(index, key))
    if run is not None:
        run.when_ended(count)
