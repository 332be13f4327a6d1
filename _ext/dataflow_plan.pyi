from collections.abc import Callable, Sequence
from typing import Any

from typing_extensions import disjoint_base

from runtime._ext.invoke import BoundKernel

KERNEL: int
ASYNC: int
PASS: int
SWITCH: int
MERGE: int
ENTER: int
EXIT: int
NEXT_ITERATION: int
TRIGGER: int
FEED: int
TRANSFER: int

@disjoint_base
class DataflowPlan:
    @property
    def num_nodes(self) -> int: ...
    @property
    def num_feeds(self) -> int: ...
    @property
    def num_fetches(self) -> int: ...
    @property
    def path(self) -> str: ...
    @property
    def constants(self) -> tuple[Any, ...]: ...
    @property
    def fetch_names(self) -> tuple[str | None, ...]: ...
    @property
    def merge_indices(self) -> tuple[Any, ...]: ...
    @property
    def kernels(self) -> list[BoundKernel | None]: ...
    @property
    def adapt_feed(self) -> Callable[[int, Any], Any] | None: ...
    def __new__(
        cls,
        kinds: Sequence[int],
        kernels: Sequence[BoundKernel | None],
        inputs: Sequence[Sequence[int]],
        controls: Sequence[Sequence[int]],
        first_values: Sequence[int],
        num_values: int,
        frames: Sequence[int],
        frame_parents: Sequence[int],
        enters: Sequence[tuple[int, int, bool, int]],
        constants: Sequence[Any],
        feed_types: Sequence[int],
        fetches: Sequence[int],
        fetch_names: Sequence[str | None],
        adapt_feed: Callable[[int, Any], Any] | None = None,
        path: str = "",
        frame_names: Sequence[bytes] = (),
    ) -> DataflowPlan: ...
