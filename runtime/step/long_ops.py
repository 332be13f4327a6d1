"""Which definitions a cancelled step may leave behind, and how their time grows with what they are given."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from runtime._ext.long_calls import COSTS
from runtime.dtypes import REF_OFFSET, DataType
from runtime.ops import opdef, registry
from runtime.ops.shapes import broadcast

if TYPE_CHECKING:
    from runtime.graph.node import Node

__all__ = ["WITHIN_INPUTS", "cost_of"]

WITHIN_INPUTS = frozenset(
    """
    All Any ArgMax ArgMin Assert BesselI0 BesselI0e BesselI1 BesselI1e Betainc BroadcastArgs BroadcastGradientArgs Case
    Concat ConcatOffset ConcatV2 ConjugateTranspose Cumprod Cumsum CumulativeLogsumexp EuclideanNorm ExpandDims GatherV2
    HistogramSummary If Igamma IgammaGradA Igammac InTopK InTopKV2 MatrixBandPart MatrixDiagPart MatrixDiagPartV2
    MatrixDiagPartV3 MatrixSetDiag MatrixSetDiagV2 MatrixSetDiagV3 MatrixSolveLs Max MaxPoolGradV2 MaxPoolV2 Mean Min
    Ndtri NthElement Polygamma PrintV2 Prod ReduceJoin RegexFullMatch RegexReplace Reshape ResourceStridedSliceAssign
    ReverseV2 ScalarSummary Slice Split SplitV StatelessCase StatelessIf StridedSlice StridedSliceAssign StringSplit
    StringSplitV2 Sum TensorArrayGatherV3 TensorArrayReadV3 TensorArrayScatterV3 TensorArraySplitV3 TensorArrayWriteV3
    TensorListFromTensor TensorListGather TensorListGetItem TensorListScatterIntoExistingList TensorListSetItem
    TensorListStack TensorStridedSliceUpdate TopK TopKV2 Transpose Unique UniqueV2 UniqueWithCounts UniqueWithCountsV2
    UnravelIndex Zeta
    """.split()  # noqa: SIM905
)
"""Ops whose host inputs choose among what is there; those of others may say how much is made."""

_PRODUCTS = frozenset(
    """
    BatchMatMul BatchMatMulV2 Cholesky CholeskyGrad Conv2D Conv2DBackpropFilter Conv2DBackpropInput Conv3D
    Conv3DBackpropFilterV2 Conv3DBackpropInputV2 Einsum LogMatrixDeterminant Lu MatMul MatrixDeterminant
    MatrixExponential MatrixInverse MatrixSolve MatrixSolveLs MatrixTriangularSolve Qr SelfAdjointEigV2 SparseMatMul
    SparseTensorDenseMatMul Svd
    """.split()  # noqa: SIM905
)
"""Products and decompositions: n^3 operations on n^2 elements, or their like."""

_ONLY_READ = frozenset(
    """
    LoadAndRemapMatrix Multinomial ParameterizedTruncatedNormal RandomCrop RandomGamma RandomPoissonV2 RandomShuffle
    RandomStandardNormal RandomUniform RandomUniformInt Restore RestoreSlice RestoreV2 TruncatedNormal
    """.split()  # noqa: SIM905
)
"""Stateful ops that change nothing but the place of a random stream, which nobody sees of a step that was cancelled."""

_HANDLES = (DataType.RESOURCE, DataType.VARIANT)
_MOST_COUNTED_INPUTS = 64


def cost_of(node: Node) -> tuple[int | None, int]:
    """Return what `BoundKernel` takes as the cost and the counts of a node; no cost when steps wait for its calls.

    They do where a call changes something beyond what it returns: variables and other resources, files, whatever a
    function may contain.
    """
    return (None, 0) if node.op_def is None else _cost(node.op, node.input_types, node.output_types)


@lru_cache(maxsize=4096)
def _cost(op: str, input_types: tuple[int, ...], output_types: tuple[int, ...]) -> tuple[int | None, int]:
    kernel, op_def = registry.find(op), opdef.lookup(op)
    if kernel.needs_step or kernel.asynchronous or op_def is None or not output_types:
        return None, 0
    if op_def.is_stateful and op not in _ONLY_READ:
        return None, 0
    if any(attr.kind in ("func", "list(func)") for attr in op_def.attrs.values()):
        return None, 0
    if any(kind > REF_OFFSET or kind in _HANDLES for kind in (*input_types, *output_types)):
        return None, 0
    if op in _PRODUCTS:
        return COSTS["product"], 0
    if kernel.shape is broadcast:
        return COSTS["broadcast"], 0
    counts, count = 0, len(input_types)
    for index in () if op in WITHIN_INPUTS else kernel.host:
        position = index + count if index < 0 else index
        if 0 <= position < min(count, _MOST_COUNTED_INPUTS):
            counts |= 1 << position
    return COSTS["linear"], counts
