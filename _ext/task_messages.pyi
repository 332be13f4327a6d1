from collections.abc import Mapping, Sequence
from typing import TypeVar, final

from typing_extensions import Buffer, disjoint_base

_T = TypeVar("_T")

def small_tasks(
    request: bytes, limit: int, kind: type[_T], value_kind: type[tuple[bytes, object]]
) -> tuple[str, bytes | None, list[_T]] | None: ...
def simple_ends(news: bytes, limit: int) -> list[tuple[int, bytes, int]] | None: ...
def collected_values(reply: bytes) -> list[tuple[str, bytes]] | None: ...
@disjoint_base
class _Message:
    def __len__(self) -> int: ...
    def tobytes(self) -> bytes: ...

@final
class OrdersWriter(_Message):
    def __init__(self, chunk_bytes: int = 0, inline_bytes: int = 0) -> None: ...
    @property
    def num_tasks(self) -> int: ...
    def add(
        self,
        number: int,
        session_id: str,
        task_id: str,
        keys: tuple[str, ...],
        options: Mapping[str, str],
        payload: bytes | Sequence[Buffer],
        dependencies: list[tuple[str, bytes]],
        max_duration_s: float,
        is_announced: bool,
    ) -> None: ...
    @property
    def is_whole(self) -> bool: ...
    def parts(self) -> list[bytes | memoryview]: ...

@final
class CollectedWriter(_Message):
    def add(self, key: str, value: bytes) -> None: ...
    def append(self, message: bytes) -> None: ...

@final
class TasksWriter(_Message):
    def __init__(self, head: bytes) -> None: ...
    def add(self, task_id: str, keys: tuple[str, ...], dependencies: tuple[str, ...], payload: bytes) -> None: ...
