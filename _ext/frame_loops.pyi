from collections.abc import Sequence
from typing import Any, final

from runtime._ext.program import Program
from runtime._ext.step_context import StepContext

@final
class FrameLoop:
    def __new__(
        cls,
        condition: Program,
        body: Program,
        num_variables: int,
        num_constants: int,
        body_args: Sequence[int],
        exits: Sequence[int],
    ) -> FrameLoop: ...
    def __call__(self, step: StepContext, *args: Any) -> list[Any]: ...
