"""Every case of every table: our kernels beside TensorFlow's."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from runtime.dtypes import is_ref
from runtime.errors import Error
from runtime.ops import registry
from tests.ops import retyping
from tests.ops.case import RELATIVE, Case, Outcome, read_answers, write_cases
from tests.ops.kernel_runner import KernelRunner
from tests.ops.step_runner import CaseInSteps
from tests.peers import run_peer

FAMILIES = retyping.FAMILIES
ONLY = set(filter(None, os.environ.get("TENSOR_RUNTIME_OP_CASES", "").split(",")))
RUNNER = Path(__file__).with_name("peer_runner.py")
SHOWN = 100
PEER_TIMEOUT_S = 400.0  # some 40 s for all families on an idle machine of two cores

Answers = dict[str, tuple[list[Case], list[list[Outcome]]]]


def chosen_cases(family: str) -> list[Case]:
    return [case for case in retyping.family_cases(family) if not ONLY or case.op in ONLY]


@pytest.fixture(scope="module")
def peer_answers(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Answers:
    """What TensorFlow gives for the cases of every family that this session tests, from one process."""
    wanted = [item.callspec.params["family"] for item in request.session.items
              if isinstance(item, pytest.Function) and item.function is test_kernels_give_what_tensorflow_gives]
    folder = tmp_path_factory.mktemp("cases")
    found: Answers = {}
    paths = []
    for family in wanted:
        cases = chosen_cases(family)
        found[family] = (cases, [])
        write_cases(folder / family, cases)
        paths += [str(folder / family), str(folder / f"{family}.answers")]
    run_peer(RUNNER, *paths, timeout_s=PEER_TIMEOUT_S)
    for family, (_, outcomes) in found.items():
        outcomes.extend(read_answers(folder / f"{family}.answers"))
    return found


@pytest.mark.timeout(PEER_TIMEOUT_S + 60)
@pytest.mark.parametrize("family", FAMILIES)
def test_kernels_give_what_tensorflow_gives(family: str, peer_answers: Answers) -> None:
    cases, answers = peer_answers[family]
    if not cases:
        pytest.skip("TENSOR_RUNTIME_OP_CASES names no op of this family")
    assert len(answers) == len(cases)
    problems: list[str] = []
    for case, theirs in zip(cases, answers):
        problems += [f"{case.name}: {problem}" for problem in check_case(case, theirs)]
    more = f"\n... and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
    assert not problems, f"{len(problems)} problems in {len(cases)} cases:\n" + "\n".join(problems[:SHOWN]) + more


def test_every_type_that_an_op_allows_has_a_case_or_a_reason() -> None:
    covered, written, excused = retyping.covered(), retyping.written(), retyping.left_out()
    in_tables = {op for op, _ in covered}
    without, needless = [], []
    for (op, attr), kinds in retyping.wanted().items():
        labels = {kind.label for kind in kinds if kind in covered.get((op, attr), ())} if op in in_tables else set()
        left = excused.pop((op, attr), set())
        if op in in_tables:
            without += [f"{op} {attr} {kind.label}" for kind in kinds if kind.label not in labels | left]
        told = {kind.label for kind in kinds if kind in written.get((op, attr), ())}
        needless += [f"{op} {attr} {label}" for label in left if label in told or op not in in_tables]
    assert not without, "neither in a table nor in types_left_out.txt"
    assert not needless, "in types_left_out.txt for nothing"
    assert not excused, "in types_left_out.txt, but no attr of an op"


def check_case(case: Case, theirs: list[Outcome]) -> list[str]:
    """Return what is wrong with our side of a case; empty when all is right."""
    for answer in theirs:
        if answer.text.startswith("import: "):
            return [f"TensorFlow does not take the graph: {answer.text}"]
        if answer.text.startswith("No OpKernel was registered"):
            return ["TensorFlow has no kernel for these types on a CPU, so it cannot judge: take them out of the table"]
    problems: list[str] = []
    for how, make in FORMS.items():
        if case.needs_executor and make is not CaseInSteps:
            continue
        try:
            runner: Any = make(case)
        except Error as error:
            problems = [f"our graph refuses it: {error.message}{how}"]
            break
        for number, (run, answer) in enumerate(zip(case.runs, theirs)):
            before = {name: value.copy() for name, value in run.feeds.items()}
            where = f"run {number + 1}: " if len(case.runs) > 1 else ""
            try:
                ours: Any = runner.run(run)
            except Error as error:
                ours = error
            except Exception as error:
                ours = error
                problems.append(f"{where}{type(error).__name__}: {error}{how}")
            else:
                for name, value in before.items():
                    if not _same(run.feeds[name], value):
                        problems.append(f"{where}the kernel changed its input {name}{how}")
            if isinstance(ours, (list, Error)):
                problem = compare(case, ours, answer)
                if problem:
                    problems.append(f"{where}{problem}{how}")
            if isinstance(ours, list) and not problems and isinstance(runner, KernelRunner):
                problems += check_shapes(case, runner, run, ours)
        runner.close()
        if problems:
            break
    return problems


FORMS: dict[str, Callable[[Case], Any]] = {
    "": KernelRunner,
    " (host inputs known when bound)": lambda case: KernelRunner(case, constants=True),
    " (in a step, with compiled kernels)": CaseInSteps,
}
"""What every case runs through, by what is said of it in a problem."""


def _same(left: np.ndarray, right: np.ndarray) -> bool:
    if left.dtype == object:
        return left.tolist() == right.tolist()
    return left.tobytes() == right.tobytes()


def compare(case: Case, ours: Any, answer: Outcome) -> str:
    """Return how our outcome of one run differs from theirs; empty when it does not."""
    if isinstance(ours, Error):
        if not answer.code:
            return f"we fail with {ours.code} {ours.message!r}, TensorFlow does not"
        if answer.code != ours.code:
            return (f"we fail with {ours.code} {ours.message!r}, "
                    f"TensorFlow with {answer.code} {answer.text!r}")
        ignored = case.text if isinstance(case.text, re.Pattern) else None
        texts = [text if ignored is None else ignored.sub("", text) for text in (answer.text, ours.message)]
        if case.text and texts[0] != texts[1]:
            return f"our text is {ours.message!r},\n    TensorFlow's {answer.text!r}"
        return ""
    if answer.code:
        return f"we do not fail, TensorFlow with {answer.code} {answer.text!r}"
    theirs = answer.fetched
    if case.compare is not None:
        for mine, other in zip(ours, theirs):
            if mine.dtype != other.dtype:
                return f"the type is {mine.dtype}, TensorFlow's {other.dtype}"
        return str(case.compare(ours, theirs) or "")
    for slot, (mine, other) in enumerate(zip(ours, theirs)):
        problem = difference(mine, other, case)
        if problem:
            return f"output {slot}: {problem}"
    return ""


def difference(ours: np.ndarray, theirs: np.ndarray, case: Case) -> str:
    """Return how two arrays differ beyond the tolerance; empty when they do not."""
    if ours.dtype != theirs.dtype:
        return f"the type is {ours.dtype}, TensorFlow's {theirs.dtype}"
    if ours.shape != theirs.shape:
        return f"the shape is {ours.shape}, TensorFlow's {theirs.shape}"
    if ours.size == 0:
        return ""
    relative = RELATIVE.get(ours.dtype)
    if case.relative is not None and relative is not None:
        relative = case.relative
    if relative is None:
        equal = np.asarray(ours == theirs)
    else:
        wide = np.complex128 if ours.dtype.kind == "c" else np.float64
        with np.errstate(all="ignore"):
            a, b = ours.astype(wide), theirs.astype(wide)
            size = np.abs(b)
            largest = float(np.max(size[np.isfinite(size)], initial=0.0))
            tiny = float(ml_dtypes.finfo(ours.dtype).tiny)  # some libraries flush what is smaller to zero
            slack = relative * size + max(case.absolute * largest, tiny)
            equal = (a == b) | (np.isnan(a) & np.isnan(b)) | (np.abs(a - b) <= np.where(np.isfinite(slack), slack, 0))
    if equal.all():
        return ""
    index = tuple(int(i) for i in np.argwhere(~equal)[0])
    return (f"{int((~equal).sum())} of {ours.size} elements differ, first at {index}: "
            f"{ours[index]!r}, TensorFlow's {theirs[index]!r}")


def check_shapes(case: Case, runner: KernelRunner, run: Any, fetched: list[np.ndarray]) -> list[str]:
    """Return where the static shape function of the op under test contradicts the shapes that came out."""
    node = next(node for node in runner.nodes if node.op == case.op)
    shape_fn = registry.find(case.op).shape
    known = {name: value.shape for name, value in run.feeds.items()}
    actual = {name: value.shape for name, value in zip(run.fetches, fetched)}
    inputs = [known.get(f"{producer.name}:{slot}") for producer, slot in node.inputs]
    if shape_fn is None or any(is_ref(kind) for kind in node.input_types):
        return []
    problems = []
    for told in partial_shapes(inputs):
        try:
            shapes = list(shape_fn(node, told))
        except Exception as error:
            problems.append(f"the shape function fails on {told}: {type(error).__name__}: {error}")
            continue
        if len(shapes) != len(node.output_types):
            problems.append(f"the shape function gives {len(shapes)} shapes for {len(node.output_types)} outputs")
            continue
        for slot, shape in enumerate(shapes):
            came = actual.get(f"{node.name}:{slot}")
            if shape is None or came is None:
                continue
            fits = len(shape) == len(came) and all(a is None or a == b for a, b in zip(shape, came))
            if not fits:
                problems.append(f"the static shape of output {slot} for {told} is {shape}, {came} came out")
    return problems


def partial_shapes(inputs: list[Any]) -> list[list[Any]]:
    """Return the input shapes with all, some and nothing known."""
    told = [inputs, [None] * len(inputs)]
    told.append([None if shape is None else (None,) * len(shape) for shape in inputs])
    for index, shape in enumerate(inputs):
        told.append([*inputs[:index], None, *inputs[index + 1:]])
        if shape:
            for axis in range(len(shape)):
                told.append([*inputs[:index], (*shape[:axis], None, *shape[axis + 1:]), *inputs[index + 1:]])
    return told
