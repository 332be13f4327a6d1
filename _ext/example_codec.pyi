from collections.abc import Sequence
from typing import Any, final

import numpy as np
import numpy.typing as npt

class ExampleFault(Exception):
    example: int
    feature: int
    kind: int
    def __init__(self, example: int, feature: int, kind: int) -> None: ...

@final
class Features:
    @property
    def keys(self) -> list[bytes]: ...
    def __new__(cls, keys: Sequence[bytes], kinds: Sequence[int]) -> Features: ...

@final
class ExampleParser:
    def __new__(
        cls,
        keys: Sequence[bytes],
        kinds: Sequence[int],
        list_keys: Sequence[bytes] | None = None,
        list_kinds: Sequence[int] = (),
    ) -> ExampleParser: ...
    def parse(
        self, serialized: list[bytes]
    ) -> tuple[
        npt.NDArray[np.int64],
        list[npt.NDArray[Any]],
        npt.NDArray[np.int64],
        list[npt.NDArray[np.int64]],
        list[npt.NDArray[Any]],
    ]: ...
