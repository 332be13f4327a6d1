"""Small graphs that ask for more memory than there is: an error at once, and the session goes on."""

from __future__ import annotations

import numpy as np
import pytest

import runtime
from runtime import wire
from runtime.errors import Error, InvalidArgument, ResourceExhausted
from runtime.graph.graph import Graph
from tests.ops.case import Case, op_case
from tests.step.maker import Runner

DIMS = np.array([1 << 20, 1 << 24], np.int64)  # 64 TiB of float32


@pytest.mark.parametrize("op", ["BroadcastTo", "Fill", "Tile"])
def test_a_result_that_no_memory_holds_is_refused(op: str) -> None:
    graph = runtime.Graph()
    dims = graph.placeholder("int64", [2], name="dims")
    value = graph.placeholder("float32", name="value")
    made = graph.op(op, dims, value) if op == "Fill" else graph.op(op, value, dims)
    total = graph.reduce_sum(made)
    with runtime.Session(graph=graph) as session:
        scalar = np.ones((1, 1) if op == "Tile" else (), np.float32)
        with pytest.raises(ResourceExhausted, match="out of memory|OOM when"):
            session.run(total, {dims: DIMS, value: scalar})
        assert session.run(total, {dims: np.array([3, 4]), value: scalar}) == 12


@pytest.mark.parametrize("op", ["ResizeBilinear", "ResizeBicubic", "ResizeArea", "ResizeNearestNeighbor"])
def test_a_size_that_no_memory_holds_is_refused(op: str) -> None:
    graph = runtime.Graph()
    image = graph.placeholder("float32", [1, 2, 2, 1], name="image")
    size = graph.placeholder("int32", [2], name="size")
    resized = graph.op(op, image, size)
    with runtime.Session(graph=graph) as session:
        some = np.ones((1, 2, 2, 1), np.float32)
        with pytest.raises(ResourceExhausted, match="out of memory|OOM when"):
            session.run(resized, {image: some, size: np.array([2**31 - 1, 2**31 - 1])})
        assert session.run(resized, {image: some, size: np.array([4, 3])}).shape == (1, 4, 3, 1)


EXA = 1 << 60
ONE, PLACE = np.ones(1, np.float32), np.array([[0, 1]])
TALL = np.array([EXA, 5])
ZERO = np.zeros((), np.float32)
TEXT = np.array([b"a"], object)
SAMPLED = {"num_true": 1, "unique": False, "range_max": 1 << 50}
HUGE = [
    op_case("RandomGamma", np.array([EXA]), ZERO, seed=1),
    op_case("RandomUniform", np.array([EXA]), dtype=np.float32, seed=1),
    op_case("RandomPoissonV2", np.array([EXA]), ZERO, dtype=np.int64, seed=1),
    op_case("ParameterizedTruncatedNormal", np.array([EXA]), ZERO, ZERO + 1, ZERO - 1, ZERO + 1, seed=1),
    op_case("ScatterNd", np.array([[0]]), ONE, np.array([EXA])),
    op_case("SparseToDense", PLACE, TALL, ONE, ZERO),
    op_case("SparseReduceSum", PLACE, ONE, TALL, np.array([1], np.int32)),
    op_case("SparseFillEmptyRows", PLACE, ONE, TALL, ZERO),
    op_case("SparseTensorDenseMatMul", PLACE, ONE, np.array([EXA, 2]), np.ones((2, 3), np.float32)),
    op_case("SparseSegmentSumWithNumSegments", np.ones((2, 3), np.float32), np.array([0]), np.array([0]),
            np.array(EXA)),
    op_case("SparseConcat", PLACE, PLACE, ONE, ONE, TALL * 4, TALL * 4, concat_dim=0),
    op_case("SerializeManySparse", PLACE, ONE, TALL),
    op_case("SetSize", PLACE, np.ones(1, np.int32), TALL),
    op_case("EditDistance", PLACE, np.ones(1, np.int32), TALL, PLACE, np.ones(1, np.int32), TALL),
    op_case("UnsortedSegmentJoin", TEXT, np.array([0]), np.array(EXA)),
    op_case("RaggedRange", np.array([0]), np.array([EXA]), np.array([1])),
    op_case("RaggedTensorToTensor", np.array([EXA, 3]), ONE, ZERO, np.array([0, 1]),
            row_partition_types=["ROW_SPLITS"]),
    op_case("UniformCandidateSampler", np.array([[1]]), num_sampled=1 << 40, **SAMPLED),
]


@pytest.mark.parametrize("case", HUGE, ids=lambda case: case.op)
def test_a_huge_request_is_refused_at_once(case: Case) -> None:
    graph = wire.GraphDef(node=case.nodes)
    graph.versions.producer = case.producer
    runner = Runner(Graph.from_proto(graph))
    run = case.runs[0]
    with pytest.raises((ResourceExhausted, InvalidArgument)) as caught:
        runner.run(list(run.fetches), dict(run.feeds), list(run.targets))
    assert isinstance(caught.value, Error)
