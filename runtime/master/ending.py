"""How steps and sessions end before their time: the waits and the words.

Apart from the session's module, which needs the whole graph plane: a server that waits for its first client has not
loaded that yet.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from runtime._ext.errors import DeadlineExceeded
from runtime.observe.status import step_waits

if TYPE_CHECKING:
    from runtime._ext.executor import StepContext

__all__ = ["CLOSED_BY_CLIENT", "CLOSE_WAIT_S", "SERVER_STOPPED", "timed_out"]

CLOSE_WAIT_S = 30.0
"""How long closing a session waits for its steps after cancelling them, in seconds. A kernel that ignores its
cancellation for longer keeps its step; the session is gone all the same."""

CLOSED_BY_CLIENT = "Step was cancelled by an explicit call to `Session::Close()`."
SERVER_STOPPED = "Step was cancelled because the server is stopping."

# Of a step that waits for more, the longest ones.
_TOLD_WAITS = 3


def timed_out(timeout_s: float, step: StepContext) -> DeadlineExceeded:
    """Return the error of a step that ran into its limit just now; it says what the step waits for.

    Of a step over several tasks these are its parts, and what the part on this task waits for.
    """
    part = getattr(step.exchange, "own_step", None)
    waits = [*step_waits(step), *(step_waits(part) if part is not None else ())]
    awaited = "; ".join(map(str, waits[:_TOLD_WAITS]))
    more = f"; and {len(waits) - _TOLD_WAITS} more" if len(waits) > _TOLD_WAITS else ""
    return DeadlineExceeded(
        f"The step did not end within its limit of {timeout_s * 1000:g} ms "
        "(RunOptions.timeout_in_ms, or ConfigProto.operation_timeout_in_ms)"
        f"{'; it waits for: ' if waits else ''}{awaited}{more}"
    )
