"""What a session needs of whatever runs its steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

__all__ = ["Array", "DeviceInfo", "Signature", "Transport"]

Array = np.ndarray[Any, Any]


class DeviceInfo(NamedTuple):
    """A device of a session.

    Attributes
    ----------
    name : str
        ``/job:J/replica:0/task:T/device:TYPE:ID``.
    device_type : str
    memory_limit_bytes : int
    incarnation : int
        Random 64 bits, new with every start of the server; unsigned.
    """

    name: str
    device_type: str
    memory_limit_bytes: int
    incarnation: int


@dataclass(frozen=True, slots=True)
class Signature:
    """Names that a step is known by; ``feed_types`` are DataType numbers."""

    feeds: tuple[str, ...]
    feed_types: tuple[int, ...]
    fetches: tuple[str, ...]
    targets: tuple[str, ...]
    options: bytes = b""


class Transport(Protocol):
    """Carries a session's calls. Arrays come and go in the order of the signature's names.

    Every method may be called from any thread, raises the errors of `runtime.errors`, and gives way to
    KeyboardInterrupt, which cancels what it waits for.
    """

    @property
    def is_open(self) -> bool:
        """Tell whether `create` has been called."""

    def create(self, graph_def: Any) -> None:
        """Make the session with its first graph."""

    def extend(self, graph_def: Any) -> None:
        """Add nodes."""

    def run(self, signature: Signature, values: Sequence[Array]) -> tuple[list[Array], bytes]:
        """Run a step: arrays, and RunMetadata (empty when none was asked for)."""

    def partial_setup(self, signature: Signature) -> str:
        """Begin a partial run and return its handle."""

    def partial_run(self, handle: str, signature: Signature, values: Sequence[Array]) -> list[Array]:
        """Give a partial run some feeds and take some fetches."""

    def make_callable(self, options: Any) -> int:
        """Compile a callable (CallableOptions) and return its number."""

    def run_callable(self, handle: int, feed_types: Sequence[int], values: Sequence[Array], timeout_s: float
                     ) -> tuple[list[Array], bytes]:
        """Run a callable."""

    def release_callable(self, handle: int) -> None:
        """Forget a callable."""

    def list_devices(self) -> list[DeviceInfo]:
        """Return the session's devices."""

    def close(self) -> None:
        """End the session. Does nothing the second time."""
