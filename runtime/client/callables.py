"""Functions made of steps: what `runtime.Session.make_callable` returns."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

from runtime._ext.errors import Error, FailedPrecondition, InvalidArgument
from runtime.client.feeds import feed_value
from runtime.client.fetches import FetchPlan
from runtime.client.graphs import GraphSource
from runtime.client.transport import Transport

__all__ = ["Callable"]


class Callable:
    """A step that the server has compiled, called with values by position.

    Made by `runtime.Session.make_callable`; a context manager that lets the server forget it at the end. Safe from
    several threads.
    """

    def __init__(self, transport: Transport, source: GraphSource, handle: int, feeds: Sequence[str], plan: FetchPlan,
                 timeout_s: float) -> None:
        self._transport = transport
        self._source = source
        self._handle: int | None = handle
        self._feeds = tuple(feeds)
        self._plan = plan
        self._timeout_s = timeout_s

    def __call__(self, *values: Any) -> Any:
        """Run the step.

        Parameters
        ----------
        *values : array_like
            One per entry of ``feed_list``; cast to the tensors' types.

        Returns
        -------
        object
            As `runtime.Session.run`.
        """
        if self._handle is None:
            raise FailedPrecondition("this callable is closed")
        if len(values) != len(self._feeds):
            raise InvalidArgument(f"this callable takes {len(self._feeds)} values "
                                  f"({', '.join(self._feeds) or 'none'}), got {len(values)}")
        fed = [feed_value(self._source, name, value) for name, value in zip(self._feeds, values, strict=True)]
        outputs, _ = self._transport.run_callable(self._handle, [kind for _, kind in fed],
                                                  [array for array, _ in fed], self._timeout_s)
        return self._plan.build([value if value.ndim else value[()] for value in outputs])

    def close(self) -> None:
        """Let the server forget it. Does nothing the second time, or after the session's end."""
        handle, self._handle = self._handle, None
        if handle is not None and self._transport.is_open:
            try:
                self._transport.release_callable(handle)
            except Error:  # gone with its server or session
                return

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
                 ) -> None:
        self.close()
