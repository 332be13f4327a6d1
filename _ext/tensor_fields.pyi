from collections.abc import Sequence

class TensorFields:
    def __init__(
        self,
        number: int,
        names: Sequence[str] | None,
        datatypes: Sequence[int] | None,
        omit_scalar_shape: bool = False,
    ) -> None: ...
    @property
    def names(self) -> tuple[str, ...]: ...
    @property
    def datatypes(self) -> tuple[int, ...]: ...
