"""Attrs and inputs that once ended a server, held one of its threads for ever, or were answered with a Python error."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from runtime import wire
from runtime.errors import InvalidArgument
from runtime.master.master import Master
from runtime.master.task import Task
from runtime.step.files import FileAccess
from runtime.step.runner import StepRunner
from tests.ops.case import Case, graph_def, op_case

ROWS = np.arange(6, dtype=np.float32).reshape(2, 3)
IMAGES, WEIGHTS = np.ones((1, 4, 4, 2), np.float32), np.ones((2, 2, 2, 1), np.float32)
TOO_LARGE = 1 << 40


def none_of(case: Case, count: str) -> Case:
    """Return a case whose op has a count of 0 and, where it counts inputs, none of these."""
    *others, last = case.nodes
    changed = type(last).FromString(last.SerializeToString())
    changed.attr[count].i = 0
    if count == "N":
        del changed.input[:]
    return replace(case, nodes=[*others, changed], runs=[replace(case.runs[0], fetches=[], targets=["op"])])


@pytest.fixture(scope="module")
def master() -> Iterator[Master]:
    with StepRunner(2) as runner:
        made = Master(Task("local", files=FileAccess([])), runner=runner)
        yield made
        made.close()


def run(master: Master, case: Case) -> list[np.ndarray[Any, Any]]:
    handle, _ = master.create_session(graph_def(case))
    try:
        step = case.runs[0]
        options = wire.RunOptions(timeout_in_ms=10_000)
        return list(master.session(handle).run(dict(step.feeds), list(step.fetches), list(step.targets), options)[0])
    finally:
        master.close_session(handle)


@pytest.mark.parametrize("case, text", [
    (none_of(op_case("Split", np.int32(0), ROWS, num_split=3), "num_split"),
     "attr 'num_split' of 0 must be at least minimum 1"),
    (none_of(op_case("AddN", ROWS, ROWS), "N"), "attr 'N' of 0 must be at least minimum 1"),
    (none_of(op_case("ShapeN", ROWS, ROWS), "N"), "attr 'N' of 0 must be at least minimum 1"),
    (none_of(op_case("DynamicStitch", np.arange(2, dtype=np.int32), ROWS), "N"),
     "attr 'N' of 0 must be at least minimum 1"),
    (op_case("OneHot", np.int32(1), np.int32(2), np.float32(1), np.float32(0), axis=TOO_LARGE), "axis"),
    (op_case("Squeeze", ROWS, squeeze_dims=[TOO_LARGE]), "dim"),
    (op_case("Unpack", ROWS, axis=TOO_LARGE, num=2), "axis"),
    (op_case("DepthwiseConv2dNative", IMAGES, WEIGHTS, strides=[1, 1], padding="SAME"),
     "strides field must specify 4 dimensions"),
    (op_case("MatrixDiagV3", np.ones(2), np.int32(0), np.zeros(0, np.int32), np.int32(2), np.float64(0)),
     "num_rows must be a scalar"),
    (op_case("FloorDiv", np.complex64(1), np.complex64(2)), "complex numbers have no floor; RealDiv divides them"),
], ids=lambda value: value.op if isinstance(value, Case) else "")
def test_the_error_names_what_is_wrong(master: Master, case: Case, text: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        run(master, case)
    assert text in caught.value.message


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("with_vectors", [True, False])
def test_singular_values_of_what_is_not_finite_are_nan(master: Master, value: float, with_vectors: bool) -> None:
    matrices = np.zeros((2, 3, 3))
    matrices[0] = np.eye(3)
    matrices[1, 0, 0] = value
    singular, left, right = run(master, op_case("Svd", matrices, compute_uv=with_vectors))
    assert singular[0].tolist() == [1, 1, 1]
    assert np.isnan(singular[1]).all()
    for vectors in (left, right) if with_vectors else ():
        assert np.isfinite(vectors[0]).all()
        assert np.isnan(vectors[1]).all()
