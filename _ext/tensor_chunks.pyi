from typing import Any, Self

from typing_extensions import disjoint_base

CHUNK: int

@disjoint_base
class TensorChunks:
    dtype: Any
    element_shape: tuple[int | None, ...] | None
    max_num_elements: int
    length: int
    chunks: list[list[Any]]
    def get(self, index: int) -> Any: ...
    def set(self, index: int, element: Any) -> Self: ...
    def push(self, element: Any) -> Self: ...
    def pop(self) -> Self: ...

def register(kind: type[TensorChunks]) -> None: ...
