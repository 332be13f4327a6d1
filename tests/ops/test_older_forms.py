"""Forms of ops that TensorFlow 2.21 cannot run itself give what the forms give that are compared with it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from runtime.dtypes import DataType
from runtime.errors import Error
from tests.ops.case import Case, Run, as_array, const, graph_case, node, op_case
from tests.ops.cases import readers
from tests.ops.cases.readers import RECORDS, frames
from tests.ops.folder import case_file
from tests.ops.pipeline import WIDE, Pipeline
from tests.ops.step_runner import CaseInSteps
from tests.ops.values import TYPES

Answer = list[list[object]]
TWO = np.int64(2)
FIXED = b"head" + bytes(range(12)) + b"ft"


def answers(case: Case) -> Answer:
    """Return what the runs of a case give; the class of an error."""
    runner = CaseInSteps(case)
    found: Answer = []
    for run in case.runs:
        try:
            found.append([value.tolist() for value in runner.run(run)])
        except Error as error:
            found.append([type(error).__name__])
    runner.close()
    return found


def batched(op: str, *extra: np.bool_) -> Case:
    pipe = Pipeline()
    source = pipe.wide()
    pipe.signature = [(kind, (None, 2)) for kind in TYPES]
    return pipe.case(op, "", pipe.add(op, source, TWO, *extra), 2)


def padded(op: str, *extra: np.bool_) -> Case:
    pipe = Pipeline()
    source = pipe.wide()
    pipe.signature = [(kind, (None, 3)) for kind in TYPES]
    paddings = [np.array(b"p" if value.dtype == object else 1, value.dtype) for value in WIDE]
    made = pipe.add(op, source, TWO, *[np.array([3])] * len(WIDE), *paddings, *extra, N=len(WIDE))
    return pipe.case(op, "", made, 2)


def fixed(op: str, *extra: bytes) -> Case:
    pipe = Pipeline([(DataType.STRING, ())])
    names = as_array([case_file("older fixed", FIXED)] * 2)
    numbers = [np.int64(value) for value in (4, 3, 2, 0)]
    return pipe.case(op, "", pipe.add(op, names, *numbers, *extra), 8)


def filtered(op: str, *extra: np.int64) -> Case:
    pipe = Pipeline()
    return pipe.case(op, "", pipe.add(op, pipe.numbers(6), *extra, predicate=pipe.above(), Targuments=[]), 3)


def of_every_type(op: str, *extra: np.int64) -> Case:
    """Return a filter that takes arguments of every type besides an element of every type."""
    pipe = Pipeline()
    source = pipe.wide()
    inputs = {f"{letter}{place}": kind for letter in "xo" for place, kind in enumerate(TYPES)}
    body = pipe.body("holds", inputs, {"y": ("yes:output:0", DataType.BOOL)}, const("yes", np.bool_(True)))
    return pipe.case(op, "", pipe.add(op, source, *WIDE, *extra, predicate=body, Targuments=list(TYPES)), 3)


def random(op: str, *extra: np.bool_) -> Case:
    pipe = Pipeline()
    made = pipe.add(op, np.int64(3), np.int64(5), *extra)
    return pipe.case(op, "", pipe.add("RandomDatasetV2", np.int64(3), np.int64(5), made), 4)


def largest(op: str) -> Case:
    rows = np.array([[3, 1, 3, 2], [0, np.inf, -1, 7]], np.float32)
    return op_case("TopK", rows, k=3) if op == "TopK" else op_case(op, rows, np.int32(3))


@pytest.mark.parametrize("older, newer", [
    (lambda: batched("BatchDataset"), lambda: batched("BatchDatasetV2", np.bool_(False))),
    (lambda: padded("PaddedBatchDataset"), lambda: padded("PaddedBatchDatasetV2", np.bool_(False))),
    (lambda: fixed("FixedLengthRecordDataset"), lambda: fixed("FixedLengthRecordDatasetV2", b"")),
    (lambda: filtered("ParallelFilterDataset", TWO), lambda: filtered("FilterDataset")),
    (lambda: of_every_type("ParallelFilterDataset", TWO), lambda: of_every_type("FilterDataset")),
    (lambda: random("AnonymousRandomSeedGenerator"), lambda: random("AnonymousSeedGenerator", np.bool_(True))),
    (lambda: largest("TopK"), lambda: largest("TopKV2")),
], ids=["batches", "padded batches", "fixed records", "filter", "filter of every type", "seeds", "largest"])
def test_both_forms_give_the_same(older: Callable[[], Case], newer: Callable[[], Case]) -> None:
    expected = answers(newer())
    assert answers(older()) == expected
    assert sum(len(item) > 0 and not isinstance(item[0], str) for item in expected) >= min(2, len(expected))


def test_readers_of_fixed_lengths_give_the_same() -> None:
    found = [case for case in readers.cases() if case.op == "FixedLengthRecordReaderV2"
             and not any("encoding" in made.attr for made in case.nodes)]  # the older form has no such attr
    assert found
    for case in found:
        assert answers(readers.older(case)) == answers(case), case.name


@pytest.mark.parametrize("offsets, first", [([], 0), ([0], 0), ([len(frames(RECORDS[:1]))], 1)])
def test_records_are_read_from_an_offset(offsets: list[int], first: int) -> None:
    pipe = Pipeline([(DataType.STRING, ())])
    name = case_file("older records", frames(RECORDS))
    source = pipe.add("TFRecordDatasetV2", as_array([name]), b"", np.int64(0), np.array(offsets, np.int64))
    got = answers(pipe.case("TFRecordDatasetV2", "", source, 3))
    assert got == [[], *[[record] for record in RECORDS[first:]], *[["OutOfRange"]] * (first + 1)]


@pytest.mark.parametrize("made, deleted, inputs", [
    ("AnonymousMemoryCache", "DeleteMemoryCache", []),
    ("AnonymousSeedGenerator", "DeleteSeedGenerator", ["zero", "zero", "yes"]),
    ("AnonymousRandomSeedGenerator", "DeleteRandomSeedGenerator", ["zero", "zero"]),
])
def test_what_a_step_makes_can_be_deleted_in_it(made: str, deleted: str, inputs: list[str]) -> None:
    nodes = [const("zero", np.int64(0)), const("yes", np.bool_(True)), node(made, "made", inputs),
             node(deleted, "delete", ["made", "made:1"])]
    assert answers(graph_case(deleted, "", nodes, *[Run({}, [], ["delete"])] * 2)) == [[], []]
