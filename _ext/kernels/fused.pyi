from collections.abc import Sequence

from runtime._ext.invoke import BoundKernel
from runtime._ext.kernel_abi import CompiledKernel

MAX_STEPS: int
MAX_INPUTS: int

def element_type(bound: BoundKernel) -> int: ...
def is_bias(bound: BoundKernel) -> bool: ...
def fuse(steps: Sequence[tuple[BoundKernel, int, int]], num_inputs: int) -> CompiledKernel | None: ...
