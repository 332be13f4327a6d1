import threading
from typing import Any

from typing_extensions import disjoint_base

@disjoint_base
class Stack:
    @property
    def name(self) -> str: ...
    @property
    def element_type(self) -> Any: ...
    @property
    def limit(self) -> int: ...
    def __new__(cls, name: str, element_type: Any, limit: int) -> Stack: ...
    def push(self, element: Any) -> None: ...
    def pop(self) -> Any: ...
    def close(self) -> None: ...

@disjoint_base
class Place:
    value: Any
    shape: tuple[int, ...] | None
    written: bool
    read: bool
    cleared: bool
    is_own: bool

@disjoint_base
class Places:
    element_shape: tuple[int | None, ...] | None
    is_dynamic: bool
    closed: bool
    count: int
    @property
    def name(self) -> str: ...
    @property
    def element_type(self) -> Any: ...
    @property
    def clears(self) -> bool: ...
    @property
    def same_shapes(self) -> bool: ...
    @property
    def is_gradient(self) -> bool: ...
    @property
    def places(self) -> dict[int, Place]: ...
    @property
    def gradients(self) -> dict[str, Any]: ...
    @property
    def lock(self) -> threading.Lock: ...
    def __init__(
        self,
        name: str,
        element_type: Any,
        element_shape: tuple[int | None, ...] | None,
        *,
        is_dynamic: bool = False,
        clears: bool = True,
        same_shapes: bool = False,
        is_gradient: bool = False,
    ) -> None: ...
