from collections.abc import Callable, Sequence
from typing import Any

from typing_extensions import disjoint_base

from runtime._ext.kernel_abi import CompiledKernel

@disjoint_base
class BoundKernel:
    @property
    def node(self) -> Any: ...
    @property
    def name(self) -> str: ...
    def __new__(
        cls,
        node: Any,
        name: str,
        call: Callable[..., Any],
        compiled: CompiledKernel | None,
        num_inputs: int,
        output_types: Sequence[int],
        derefs: bytes | None,
        needs_step: bool,
        cost: int | None = None,
        counts: int = 0,
    ) -> BoundKernel: ...
    def evaluate(self, args: Sequence[Any]) -> list[Any]: ...

def name_error(error: BaseException, name: str) -> BaseException: ...
