"""What the families of builder methods need of the graph that they build in."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from runtime.graph.tensor import Tensor
    from runtime.graph.variables import Variable

__all__ = ["OpMaker"]


class OpMaker(ABC):
    """The part of `runtime.graph.builder.Graph` that makes single operations; see there."""

    variables: list[Variable]

    @abstractmethod
    def op(self, op_type: str, *inputs: Any, name: str | None = None, **attrs: Any) -> Any:
        """Add an operation of any known type."""

    @abstractmethod
    def constant(self, value: Any, dtype: Any = None, shape: Any = None, name: str = "Const") -> Tensor:
        """Add a constant."""

    @abstractmethod
    def convert(self, value: Any, dtype: Any = None, name: str = "Const") -> Tensor:
        """Return a value as a tensor of this graph."""

    @abstractmethod
    def name_scope(self, name: str | None) -> AbstractContextManager[str]:
        """Open a name scope."""

    @abstractmethod
    def control_dependencies(self, inputs: Sequence[Any] | None) -> AbstractContextManager[None]:
        """Let what is made inside run after others."""

    @abstractmethod
    def op_seeds(self, seed: int | None) -> tuple[int, int]:
        """Return the two seeds of a random op."""

    def _one(self, op_type: str, *inputs: Any, name: str | None = None, **attrs: Any) -> Tensor:
        """Add an operation with one output."""
        result: Tensor = self.op(op_type, *inputs, name=name, **attrs)
        return result
