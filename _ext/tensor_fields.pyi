from collections.abc import Sequence
from typing import Self, final

@final
class TensorFields:
    def __new__(
        cls,
        number: int,
        names: Sequence[str] | None,
        datatypes: Sequence[int] | None,
        omit_scalar_shape: bool = False,
    ) -> Self: ...
    @property
    def names(self) -> tuple[str, ...]: ...
    @property
    def datatypes(self) -> tuple[int, ...]: ...
