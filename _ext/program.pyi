from collections.abc import Callable, Sequence
from typing import Any

from typing_extensions import disjoint_base

from runtime._ext.dataflow import Dataflow
from runtime._ext.invoke import BoundKernel
from runtime._ext.step_context import StepContext

@disjoint_base
class Program:
    traced: Program | Dataflow | Callable[[], Program | Dataflow] | None
    @property
    def path(self) -> str: ...
    @property
    def num_instructions(self) -> int: ...
    @property
    def num_feeds(self) -> int: ...
    @property
    def num_fetches(self) -> int: ...
    def __new__(
        cls,
        kernels: Sequence[BoundKernel],
        inputs: Sequence[Sequence[int]],
        outputs: Sequence[Sequence[int]],
        num_values: int,
        constants: Sequence[Any],
        feed_types: Sequence[int],
        fetches: Sequence[int],
        fetch_names: Sequence[str | None],
        adapt_feed: Callable[[int, Any], Any] | None = None,
        path: str = "",
        guards: Sequence[Sequence[tuple[int, int, int, str]]] | None = None,
    ) -> Program: ...
    def run(self, step: StepContext, feeds: Sequence[Any]) -> list[Any]: ...
    def call(self, step: StepContext, args: Sequence[Any]) -> list[Any]: ...

def run_while(condition: Program, body: Program, step: StepContext, args: Sequence[Any]) -> list[Any]: ...
