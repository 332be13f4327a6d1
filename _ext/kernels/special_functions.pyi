from collections.abc import Callable, Sequence
from typing import Any

from runtime._ext.kernel_abi import CompiledKernel

OPS: frozenset[str]

def select(
    op: str, input_types: Sequence[int], output_types: Sequence[int], attr: Callable[..., Any]
) -> CompiledKernel | None: ...
