"""Steps recorded on request: whoever watches a server asks for the next steps, and gets their traces."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from runtime._ext.executor import StepContext, StepTrace
    from runtime.graph.prune import Selection

__all__ = ["RecordedStep", "Recording", "StepRecorder"]


@dataclass(frozen=True, slots=True)
class RecordedStep:
    """A step that has ended, well or not.

    Attributes
    ----------
    session_handle : str
    selection : Selection
        What it fed, fetched and ran.
    trace : StepTrace
    peak_bytes : int
        The most that its arrays held at once.
    """

    session_handle: str
    selection: Selection
    trace: StepTrace
    peak_bytes: int


@dataclass(eq=False, slots=True)
class Recording:
    """A wish for traces.

    Attributes
    ----------
    num_steps : int
        How many steps that have not begun yet it still wants.
    session_handle : str
        Of the session whose steps it wants; of any when empty.
    take : callable
        Called with every `RecordedStep`, from any thread; quick, and raises nothing.
    """

    num_steps: int
    session_handle: str
    take: Callable[[RecordedStep], object]


class StepRecorder:
    """The recordings of a server.

    Attributes
    ----------
    is_active : bool
        Whether somebody wants the next step; looked at before every step, so that one that nobody watches pays
        nothing else.

    Notes
    -----
    Safe from several threads.
    """

    def __init__(self) -> None:
        self.is_active = False
        self._wishes: list[Recording] = []
        self._running: dict[int, tuple[tuple[Recording, ...], str, Selection]] = {}
        self._lock = threading.Lock()

    def add(self, recording: Recording) -> None:
        """Give a recording the steps that begin from now on."""
        with self._lock:
            self._wishes.append(recording)
            self.is_active = True

    def remove(self, recording: Recording) -> None:
        """Give a recording no further steps; those it has claimed still come."""
        with self._lock:
            self._wishes = [wish for wish in self._wishes if wish is not recording]
            self.is_active = bool(self._wishes)

    def claim(self, session_handle: str) -> tuple[Recording, ...]:
        """Return the recordings that want a step of a session that begins now; it counts for each of them."""
        with self._lock:
            found = tuple(wish for wish in self._wishes if wish.session_handle in ("", session_handle))
            for wish in found:
                wish.num_steps -= 1
            self._wishes = [wish for wish in self._wishes if wish.num_steps > 0]
            self.is_active = bool(self._wishes)
            return found

    def begin(self, step: StepContext, recordings: tuple[Recording, ...], session_handle: str,
              selection: Selection) -> None:
        """Note a step that was claimed."""
        self._running[step.step_id] = recordings, session_handle, selection

    def end(self, step: StepContext) -> None:
        """Hand a traced step that has ended to those who wanted it."""
        recordings, handle, selection = self._running.pop(step.step_id, ((), "", None))
        if selection is not None and step.trace is not None:
            for recording in recordings:
                recording.take(RecordedStep(handle, selection, step.trace, step.peak_bytes))
