"""Builder methods for arithmetic, comparisons, reductions, products and random numbers."""

from __future__ import annotations

from typing import Any

import numpy as np

from runtime._ext.errors import InvalidArgument
from runtime.dtypes import DataType, as_datatype
from runtime.graph.op_maker import OpMaker
from runtime.graph.tensor import Tensor
from runtime.graph.variables import Variable

__all__ = ["MathMethods"]

_INTEGERS = frozenset({DataType.INT8, DataType.INT16, DataType.INT32, DataType.INT64, DataType.UINT8, DataType.UINT16,
                       DataType.UINT32, DataType.UINT64})


class MathMethods(OpMaker):
    """Mixin of `runtime.graph.builder.Graph`.

    Binary methods broadcast as numpy does; their operands must have one type, which constants take on.
    """

    def add(self, x: Any, y: Any, name: str = "add") -> Tensor:
        """Return ``x + y``; strings are joined."""
        return self._one("Add" if _common_type(x, y) is DataType.STRING else "AddV2", x, y, name=name)

    def subtract(self, x: Any, y: Any, name: str = "sub") -> Tensor:
        """Return ``x - y``."""
        return self._one("Sub", x, y, name=name)

    def multiply(self, x: Any, y: Any, name: str = "mul") -> Tensor:
        """Return ``x * y``."""
        return self._one("Mul", x, y, name=name)

    def divide(self, x: Any, y: Any, name: str = "truediv") -> Tensor:
        """Return ``x / y``; integers become float64 (float32 from 8 and 16 bits) first, as in TensorFlow."""
        with self.name_scope(name) as scope:
            left = self.convert(x, _common_type(x, y), "x")
            right = self.convert(y, left.dtype, "y")
            if left.dtype in _INTEGERS:
                narrow = left.dtype in (DataType.INT8, DataType.UINT8, DataType.INT16, DataType.UINT16)
                target = DataType.FLOAT if narrow else DataType.DOUBLE
                left = self._one("Cast", left, DstT=target, name="Cast")
                right = self._one("Cast", right, DstT=target, name="Cast_1")
            return self._one("RealDiv", left, right, name=scope)

    def floor_divide(self, x: Any, y: Any, name: str = "floordiv") -> Tensor:
        """Return ``x // y``, rounded down."""
        return self._one("FloorDiv", x, y, name=name)

    def floor_mod(self, x: Any, y: Any, name: str = "FloorMod") -> Tensor:
        """Return ``x % y`` with the sign of `y`."""
        return self._one("FloorMod", x, y, name=name)

    def pow(self, x: Any, y: Any, name: str = "pow") -> Tensor:
        """Return ``x ** y``."""
        return self._one("Pow", x, y, name=name)

    def divide_no_nan(self, x: Any, y: Any, name: str = "div_no_nan") -> Tensor:
        """Return ``x / y``, 0 where `y` is 0."""
        return self._one("DivNoNan", x, y, name=name)

    def maximum(self, x: Any, y: Any, name: str = "Maximum") -> Tensor:
        """Return the larger elements."""
        return self._one("Maximum", x, y, name=name)

    def minimum(self, x: Any, y: Any, name: str = "Minimum") -> Tensor:
        """Return the smaller elements."""
        return self._one("Minimum", x, y, name=name)

    def squared_difference(self, x: Any, y: Any, name: str = "SquaredDifference") -> Tensor:
        """Return ``(x - y) ** 2`` (times the conjugate for complex numbers)."""
        return self._one("SquaredDifference", x, y, name=name)

    def negative(self, x: Any, name: str = "Neg") -> Tensor:
        """Return ``-x``."""
        return self._one("Neg", x, name=name)

    def abs(self, x: Any, name: str = "Abs") -> Tensor:
        """Return magnitudes; of complex numbers as real ones."""
        tensor = self.convert(x)
        if tensor.dtype in (DataType.COMPLEX64, DataType.COMPLEX128):
            real = DataType.FLOAT if tensor.dtype is DataType.COMPLEX64 else DataType.DOUBLE
            return self._one("ComplexAbs", tensor, Tout=real, name=name)
        return self._one("Abs", tensor, name=name)

    def sign(self, x: Any, name: str = "Sign") -> Tensor:
        """Return -1, 0 or 1."""
        return self._one("Sign", x, name=name)

    def square(self, x: Any, name: str = "Square") -> Tensor:
        """Return ``x * x``."""
        return self._one("Square", x, name=name)

    def sqrt(self, x: Any, name: str = "Sqrt") -> Tensor:
        """Return square roots."""
        return self._one("Sqrt", x, name=name)

    def rsqrt(self, x: Any, name: str = "Rsqrt") -> Tensor:
        """Return ``1 / sqrt(x)``."""
        return self._one("Rsqrt", x, name=name)

    def reciprocal(self, x: Any, name: str = "Reciprocal") -> Tensor:
        """Return ``1 / x``."""
        return self._one("Reciprocal", x, name=name)

    def exp(self, x: Any, name: str = "Exp") -> Tensor:
        """Return e to the power of `x`."""
        return self._one("Exp", x, name=name)

    def log(self, x: Any, name: str = "Log") -> Tensor:
        """Return natural logarithms."""
        return self._one("Log", x, name=name)

    def log1p(self, x: Any, name: str = "Log1p") -> Tensor:
        """Return ``log(1 + x)``, exact near 0."""
        return self._one("Log1p", x, name=name)

    def sin(self, x: Any, name: str = "Sin") -> Tensor:
        """Return sines (radians)."""
        return self._one("Sin", x, name=name)

    def cos(self, x: Any, name: str = "Cos") -> Tensor:
        """Return cosines (radians)."""
        return self._one("Cos", x, name=name)

    def tanh(self, x: Any, name: str = "Tanh") -> Tensor:
        """Return hyperbolic tangents."""
        return self._one("Tanh", x, name=name)

    def sigmoid(self, x: Any, name: str = "Sigmoid") -> Tensor:
        """Return ``1 / (1 + exp(-x))``."""
        return self._one("Sigmoid", x, name=name)

    def erf(self, x: Any, name: str = "Erf") -> Tensor:
        """Return the error function."""
        return self._one("Erf", x, name=name)

    def floor(self, x: Any, name: str = "Floor") -> Tensor:
        """Round down."""
        return self._one("Floor", x, name=name)

    def ceil(self, x: Any, name: str = "Ceil") -> Tensor:
        """Round up."""
        return self._one("Ceil", x, name=name)

    def round(self, x: Any, name: str = "Round") -> Tensor:
        """Round half to even."""
        return self._one("Round", x, name=name)

    def clip_by_value(self, x: Any, low: Any, high: Any, name: str = "clip_by_value") -> Tensor:
        """Return `x` no smaller than `low` and no larger than `high`."""
        with self.name_scope(name) as scope:
            return self._one("Maximum", self._one("Minimum", x, high, name="Minimum"), low, name=scope)

    def add_n(self, values: list[Any], name: str = "AddN") -> Tensor:
        """Return the sum of tensors of one shape."""
        return self._one("AddN", list(values), name=name)

    # -- comparisons and logic -----------------------------------------------------------------------------------

    def equal(self, x: Any, y: Any, name: str = "Equal") -> Tensor:
        """Return bools: where elements are equal."""
        return self._one("Equal", x, y, name=name)

    def not_equal(self, x: Any, y: Any, name: str = "NotEqual") -> Tensor:
        """Return bools: where elements differ."""
        return self._one("NotEqual", x, y, name=name)

    def less(self, x: Any, y: Any, name: str = "Less") -> Tensor:
        """Return bools: where ``x < y``."""
        return self._one("Less", x, y, name=name)

    def less_equal(self, x: Any, y: Any, name: str = "LessEqual") -> Tensor:
        """Return bools: where ``x <= y``."""
        return self._one("LessEqual", x, y, name=name)

    def greater(self, x: Any, y: Any, name: str = "Greater") -> Tensor:
        """Return bools: where ``x > y``."""
        return self._one("Greater", x, y, name=name)

    def greater_equal(self, x: Any, y: Any, name: str = "GreaterEqual") -> Tensor:
        """Return bools: where ``x >= y``."""
        return self._one("GreaterEqual", x, y, name=name)

    def logical_and(self, x: Any, y: Any, name: str = "LogicalAnd") -> Tensor:
        """Return bools: where both hold."""
        return self._one("LogicalAnd", x, y, name=name)

    def logical_or(self, x: Any, y: Any, name: str = "LogicalOr") -> Tensor:
        """Return bools: where one holds."""
        return self._one("LogicalOr", x, y, name=name)

    def logical_not(self, x: Any, name: str = "LogicalNot") -> Tensor:
        """Return bools: where `x` does not hold."""
        return self._one("LogicalNot", x, name=name)

    # -- reductions ----------------------------------------------------------------------------------------------

    def reduce_sum(self, x: Any, axis: Any = None, keepdims: bool = False, name: str = "Sum") -> Tensor:
        """Return sums along dimensions, or of everything."""
        return self._reduction("Sum", x, axis, keepdims, name)

    def reduce_mean(self, x: Any, axis: Any = None, keepdims: bool = False, name: str = "Mean") -> Tensor:
        """Return means along dimensions, or of everything."""
        return self._reduction("Mean", x, axis, keepdims, name)

    def reduce_prod(self, x: Any, axis: Any = None, keepdims: bool = False, name: str = "Prod") -> Tensor:
        """Return products along dimensions, or of everything."""
        return self._reduction("Prod", x, axis, keepdims, name)

    def reduce_max(self, x: Any, axis: Any = None, keepdims: bool = False, name: str = "Max") -> Tensor:
        """Return maxima along dimensions, or of everything."""
        return self._reduction("Max", x, axis, keepdims, name)

    def reduce_min(self, x: Any, axis: Any = None, keepdims: bool = False, name: str = "Min") -> Tensor:
        """Return minima along dimensions, or of everything."""
        return self._reduction("Min", x, axis, keepdims, name)

    def reduce_all(self, x: Any, axis: Any = None, keepdims: bool = False, name: str = "All") -> Tensor:
        """Return whether all hold, along dimensions or of everything."""
        return self._reduction("All", x, axis, keepdims, name)

    def reduce_any(self, x: Any, axis: Any = None, keepdims: bool = False, name: str = "Any") -> Tensor:
        """Return whether any holds, along dimensions or of everything."""
        return self._reduction("Any", x, axis, keepdims, name)

    def _reduction(self, op_type: str, x: Any, axis: Any, keepdims: bool, name: str) -> Tensor:
        with self.name_scope(name) as scope:
            tensor = self.convert(x)
            if axis is None:
                if tensor.shape is not None:
                    axis = np.arange(len(tensor.shape), dtype=np.int32)
                else:
                    axis = self.op("Range", 0, self.op("Rank", tensor), 1)
            elif not isinstance(axis, Tensor):
                axis = np.array(axis, dtype=np.int32)
            axes = self.convert(axis, name="reduction_indices")
            return self._one(op_type, tensor, axes, keep_dims=keepdims, name=scope)

    def argmax(self, x: Any, axis: Any = 0, dtype: Any = DataType.INT64, name: str = "ArgMax") -> Tensor:
        """Return the index of the first maximum along a dimension."""
        return self._one("ArgMax", x, axis, output_type=dtype, name=name)

    def argmin(self, x: Any, axis: Any = 0, dtype: Any = DataType.INT64, name: str = "ArgMin") -> Tensor:
        """Return the index of the first minimum along a dimension."""
        return self._one("ArgMin", x, axis, output_type=dtype, name=name)

    def cumsum(self, x: Any, axis: Any = 0, exclusive: bool = False, reverse: bool = False,
               name: str = "Cumsum") -> Tensor:
        """Return running sums along a dimension."""
        return self._one("Cumsum", x, axis, exclusive=exclusive, reverse=reverse, name=name)

    def cumprod(self, x: Any, axis: Any = 0, exclusive: bool = False, reverse: bool = False,
                name: str = "Cumprod") -> Tensor:
        """Return running products along a dimension."""
        return self._one("Cumprod", x, axis, exclusive=exclusive, reverse=reverse, name=name)

    def top_k(self, x: Any, k: Any = 1, sorted: bool = True, name: str = "TopKV2") -> tuple[Tensor, Tensor]:
        """Return the largest values along the last dimension, and their indices (int32)."""
        values, indices = self.op("TopKV2", x, k, sorted=sorted, name=name)
        return values, indices

    # -- products ------------------------------------------------------------------------------------------------

    def matmul(self, a: Any, b: Any, transpose_a: bool = False, transpose_b: bool = False,
               name: str = "MatMul") -> Tensor:
        """Return the matrix product over the last two dimensions; leading dimensions broadcast.

        Parameters
        ----------
        a : (..., n, k)
        b : (..., k, m)
        transpose_a, transpose_b : bool
            Take the operand with its last two dimensions exchanged.
        """
        with self.name_scope(name) as scope:
            left = self.convert(a, _common_type(a, b), "a")
            right = self.convert(b, left.dtype, "b")
            for label, tensor in (("a", left), ("b", right)):
                if tensor.shape is not None and len(tensor.shape) < 2:
                    raise InvalidArgument(f"matmul '{scope[:-1]}': input '{label}' is tensor '{tensor.name}' of rank "
                                          f"{tensor.rank}; matrices are needed")
            if left.rank == 2 and right.rank == 2:
                return self._one("MatMul", left, right, transpose_a=transpose_a, transpose_b=transpose_b, name=scope)
            if left.dtype in (DataType.COMPLEX64, DataType.COMPLEX128):  # adj_x and adj_y conjugate
                left = self._one("Conj", left) if transpose_a else left
                right = self._one("Conj", right) if transpose_b else right
            return self._one("BatchMatMulV2", left, right, adj_x=transpose_a, adj_y=transpose_b, name=scope)

    def einsum(self, equation: str, *inputs: Any, name: str = "Einsum") -> Tensor:
        """Return a sum of products by an equation such as ``bij,bjk->bik``; one or two operands."""
        return self._one("Einsum", list(inputs), equation=equation.replace(" ", ""), name=name)

    # -- random --------------------------------------------------------------------------------------------------

    def random_uniform(self, shape: Any, minval: Any = 0, maxval: Any = None, dtype: Any = DataType.FLOAT,
                       seed: int | None = None, name: str = "random_uniform") -> Tensor:
        """Return numbers drawn evenly from ``[minval, maxval)``; `maxval` defaults to 1 for floats."""
        kind = as_datatype(dtype)
        with self.name_scope(name) as scope:
            sizes = self._sizes(shape)
            if kind in (DataType.INT32, DataType.INT64):
                if maxval is None:
                    raise InvalidArgument(f"random_uniform '{scope[:-1]}': integers need maxval")
                low, high = self.convert(minval, kind, "min"), self.convert(maxval, kind, "max")
                first, second = self.op_seeds(seed)
                return self._one("RandomUniformInt", sizes, low, high, seed=first, seed2=second, name=scope)
            low, high = self.convert(minval, kind, "min"), self.convert(1 if maxval is None else maxval, kind, "max")
            first, second = self.op_seeds(seed)
            draw = self._one("RandomUniform", sizes, dtype=kind, seed=first, seed2=second, name="RandomUniform")
            return self._one("AddV2", self.multiply(draw, self.subtract(high, low)), low, name=scope)

    def random_normal(self, shape: Any, mean: Any = 0.0, stddev: Any = 1.0, dtype: Any = DataType.FLOAT,
                      seed: int | None = None, name: str = "random_normal") -> Tensor:
        """Return numbers drawn from a normal distribution."""
        return self._normal("RandomStandardNormal", shape, mean, stddev, dtype, seed, name)

    def truncated_normal(self, shape: Any, mean: Any = 0.0, stddev: Any = 1.0, dtype: Any = DataType.FLOAT,
                         seed: int | None = None, name: str = "truncated_normal") -> Tensor:
        """Return numbers drawn from a normal distribution, none further than two `stddev` from `mean`."""
        return self._normal("TruncatedNormal", shape, mean, stddev, dtype, seed, name)

    def _normal(self, op_type: str, shape: Any, mean: Any, stddev: Any, dtype: Any, seed: int | None,
                name: str) -> Tensor:
        kind = as_datatype(dtype)
        with self.name_scope(name) as scope:
            sizes = self._sizes(shape)
            centre, width = self.convert(mean, kind, "mean"), self.convert(stddev, kind, "stddev")
            first, second = self.op_seeds(seed)
            draw = self._one(op_type, sizes, dtype=kind, seed=first, seed2=second, name=op_type)
            return self._one("AddV2", self.multiply(draw, width), centre, name=scope)

    def random_shuffle(self, x: Any, seed: int | None = None, name: str = "RandomShuffle") -> Tensor:
        """Return the entries along the first dimension in random order."""
        first, second = self.op_seeds(seed)
        return self._one("RandomShuffle", x, seed=first, seed2=second, name=name)

    def _sizes(self, shape: Any) -> Tensor:
        parts = shape if isinstance(shape, (list, tuple)) else (shape,)
        if any(isinstance(part, Tensor) for part in parts):
            return self.convert(shape, name="shape")
        return self.convert(np.array(shape, dtype=np.int32).reshape(-1), name="shape")


def _common_type(x: Any, y: Any) -> DataType | None:
    """Return the type of the operand that is a tensor or a variable: constants follow it."""
    return next((item.dtype for item in (x, y) if isinstance(item, (Tensor, Variable))), None)
