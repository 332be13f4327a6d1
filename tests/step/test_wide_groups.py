"""Element-wise kernels with several outputs: one pass for what a backward pass will read, at a place that suits all."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

from runtime._ext.executor import Program, StepContext
from runtime.dtypes import DataType
from runtime.step import straight
from runtime.step.compile import CompiledStep
from tests.step.maker import GraphMaker, Runner

INT32, BOOL = DataType.INT32, DataType.BOOL
UNARY = ("Neg", "Square", "Tanh", "Sigmoid", "Relu", "Abs")
BINARY = ("AddV2", "Sub", "Mul", "Maximum", "SquaredDifference")


def both(monkeypatch: pytest.MonkeyPatch, maker: GraphMaker, feeds: list[str], fetches: list[str]
         ) -> tuple[CompiledStep, CompiledStep]:
    """Return a step with its kernels fused, and the same with each by itself."""
    runner = Runner(maker)
    step = runner.compile(feeds, fetches)
    with monkeypatch.context() as context:
        context.setattr(straight, "fuse", lambda *args: None)
        plain = runner.compile(feeds, fetches)
    assert isinstance(step.executor, Program)
    return step, plain


def size(step: CompiledStep) -> int:
    assert isinstance(step.executor, Program)
    return step.executor.num_instructions


def run(step: CompiledStep, values: list[Any]) -> list[bytes]:
    return [value.tobytes() for value in step.run(StepContext(1, None), values)]


def cell(maker: GraphMaker) -> list[str]:
    """Write the element-wise part of an LSTM's cell; return what its backward pass reads."""
    for name in ("i", "j", "f", "o", "c"):
        maker.placeholder(name)
    maker.const("bias", np.float32(1))
    maker.op("Sigmoid", "sf", maker.op("AddV2", "fb", "f", "bias"))
    maker.op("Sigmoid", "si", "i")
    maker.op("Tanh", "tj", "j")
    maker.op("Mul", "kept", "c", "sf")
    maker.op("Mul", "new", "si", "tj")
    maker.op("AddV2", "state", "kept", "new")
    maker.op("Tanh", "tc", "state")
    maker.op("Sigmoid", "so", "o")
    maker.op("Mul", "out", "tc", "so")
    return ["sf:0", "si:0", "tj:0", "state:0", "tc:0", "so:0", "out:0"]


@pytest.mark.parametrize("shape", [(3, 5), (32, 128), (700, 64), (0, 4), ()])
def test_the_cell_of_an_lstm_is_one_pass(monkeypatch, shape):
    maker = GraphMaker()
    fetches = cell(maker)
    step, plain = both(monkeypatch, maker, ["i:0", "j:0", "f:0", "o:0", "c:0"], fetches)
    assert (size(step), size(plain)) == (1, 10)
    values = [np.asarray(np.random.default_rng(seed).standard_normal(shape), np.float32) for seed in range(5)]
    copies = [value.copy() for value in values]
    assert run(step, values) == run(plain, values)
    assert all((value == copy).all() for value, copy in zip(values, copies, strict=True))


def test_arrays_that_die_are_used_for_outputs_once_nothing_reads_them(monkeypatch):
    """``a`` is read by the last step, too, so only the last output may lie in its memory."""
    maker = GraphMaker()
    maker.placeholder("x")
    maker.op("Softmax", "a", "x")
    maker.op("Neg", "first", "a")
    maker.op("Square", "second", "first")
    maker.op("AddV2", "third", "second", "a")
    step, plain = both(monkeypatch, maker, ["x:0"], ["first:0", "second:0", "third:0"])
    assert (size(step), size(plain)) == (2, 4)
    x = np.random.default_rng(1).standard_normal((300, 50)).astype(np.float32)
    for _ in range(3):
        assert run(step, [x]) == run(plain, [x])


def test_shapes_that_it_is_not_made_for_run_by_parts(monkeypatch):
    """An intermediate value that is smaller than the last one."""
    maker = GraphMaker()
    maker.placeholder("x")
    maker.placeholder("y")
    maker.op("Neg", "small", "y")
    maker.op("AddV2", "sum", "x", "small")
    step, plain = both(monkeypatch, maker, ["x:0", "y:0"], ["small:0", "sum:0"])
    assert (size(step), size(plain)) == (1, 2)
    rng = np.random.default_rng(2)
    for left, right in [((4, 6), (6,)), ((4, 6), ()), ((4, 1), (1, 6)), ((4, 6), (4, 6)), ((), (3,))]:
        values = [np.asarray(rng.standard_normal(shape), np.float32) for shape in (left, right)]
        assert run(step, values) == run(plain, values)


def test_a_reader_in_between_moves_the_group_before_it(monkeypatch):
    """``soft`` stands before the last kernel of the group and reads the first one's value."""
    maker = GraphMaker()
    maker.placeholder("x")
    maker.op("Neg", "a", "x")
    maker.op("Softmax", "soft", "a")
    maker.op("Square", "b", "a", "^soft")
    maker.op("Tanh", "c", "b")
    maker.op("AddV2", "end", "soft", "c")
    step, plain = both(monkeypatch, maker, ["x:0"], ["end:0"])
    assert size(step) < size(plain)
    x = np.random.default_rng(3).standard_normal((20, 30)).astype(np.float32)
    assert run(step, [x]) == run(plain, [x])


@pytest.mark.parametrize("p", [False, True])
def test_sides_of_conditionals_keep_their_kernels(monkeypatch, p):
    maker = GraphMaker()
    maker.placeholder("p", BOOL)
    maker.placeholder("x")
    maker.op("Square", "before", "x")
    maker.op("Switch", "switch", "before", "p")
    maker.op("Neg", "a", "switch:1")
    maker.op("Tanh", "b", "a")
    maker.op("Square", "c", "b")
    maker.op("Softmax", "soft", "b")
    maker.op("AddV2", "yes", "soft", "c")
    maker.op("AddV2", "again", "yes", "a")
    maker.op("Merge", "m", "again", "switch", N=2)
    maker.op("AddV2", "end", "m", "before")
    step, plain = both(monkeypatch, maker, ["p:0", "x:0"], ["end:0", "before:0"])
    assert size(step) < size(plain)
    x = np.random.default_rng(4).standard_normal((20, 30)).astype(np.float32)
    for _ in range(2):
        assert run(step, [np.asarray(p), x]) == run(plain, [np.asarray(p), x])


def random_graph(seed: int) -> tuple[GraphMaker, list[str], list[str]]:
    """Return element-wise kernels in any order among others, with feeds and fetches."""
    choices = random.Random(seed)
    maker = GraphMaker()
    names = [maker.placeholder(f"x{number}") for number in range(3)]
    maker.placeholder("row")
    maker.placeholder("p", BOOL)
    maker.op("Switch", "side", "x0", "p")
    sides: list[list[str]] = [["side"], ["side:1"]]
    for number in range(choices.randint(10, 60)):
        pool = names
        if seed % 2 and choices.random() < 0.3:
            pool = sides[choices.randrange(2)]
        recent = pool[-7:] if choices.random() < 0.8 else pool
        pick = choices.choice(recent)
        waits = [f"^{choices.choice(names)}"] if choices.random() < 0.2 else []
        roll = choices.random()
        if roll < 0.15:
            made = maker.op("Softmax", f"n{number}", pick, *waits)
        elif roll < 0.5:
            made = maker.op(choices.choice(UNARY), f"n{number}", pick, *waits)
        else:
            other = "row" if choices.random() < 0.15 else choices.choice(recent)
            made = maker.op(choices.choice(BINARY), f"n{number}", pick, other, *waits)
        pool.append(made)
    maker.op("Merge", "m", sides[0][-1], sides[1][-1], N=2)
    fetches = choices.sample(names[3:], min(len(names) - 3, choices.randint(1, 6)))
    return maker, ["x0:0", "x1:0", "x2:0", "row:0", "p:0"], [f"{name}:0" for name in (*fetches, "m")]


def test_random_graphs_give_the_bits_of_their_kernels(monkeypatch):
    rng = np.random.default_rng(5)
    saved = 0
    for seed in range(120):
        maker, feeds, fetches = random_graph(seed)
        step, plain = both(monkeypatch, maker, feeds, fetches)
        saved += size(plain) - size(step)
        shape = [(4, 6), (1, 1), (130, 70), (6,)][seed % 4]
        row = np.asarray(rng.standard_normal(shape[-1:]), np.float32)
        values = [rng.standard_normal(shape).astype(np.float32) for _ in range(3)]
        for p in (False, True):
            given = [*values, row, np.asarray(p)]
            assert run(step, given) == run(plain, given), seed
    assert saved > 900  # trees alone save 696
