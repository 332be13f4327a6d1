"""What a kernel made of several stands for, when it declines."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from runtime._ext.executor import Program, StepContext

__all__ = ["Parts"]


class Parts:
    """The kernels that one was made of, as a program of its own, made when it is first needed.

    Parameters
    ----------
    make : callable
        Returns the program: as many feeds as the kernel has inputs, as many fetches as it has outputs.
    """

    def __init__(self, make: Callable[[], Program]) -> None:
        self._make: Callable[[], Program] | None = make
        self._program: Program | None = None

    def __call__(self, step: StepContext, *args: Any) -> Any:
        """Run the parts one by one."""
        program = self._program
        if program is None:
            make = self._make
            program = self._program = self._program or (make() if make is not None else None)
            assert program is not None
            self._make = None
        found = program.call(step, args)
        return found[0] if len(found) == 1 else found
