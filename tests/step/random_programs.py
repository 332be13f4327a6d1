"""Random programs with nested loops and conditionals, and the three kinds of graph that compute the same.

A program is made first, from a seed; then it is written as a straight line (loops unrolled, both sides of conditionals
computed), with functions (``While`` and ``If``), and with frames (``Enter`` and ``Switch`` and their kin), as
TensorFlow's own clients write them. `Program.run` computes it in Python.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from runtime.dtypes import DataType
from tests.step.maker import GraphMaker, function

Array = np.ndarray[Any, Any]
Refs = dict[str, str]

INT, BOOL = DataType.INT32, DataType.BOOL
MOST_TURNS = 3
FORMS = ("straight", "functions", "frames")
WIDTH = 3

BINARY: dict[str, Callable[[Any, Any], Any]] = {
    "AddV2": np.add,
    "Sub": np.subtract,
    "Mul": np.multiply,
    "Maximum": np.maximum,
    "Minimum": np.minimum,
}
UNARY: dict[str, Callable[[Any], Any]] = {"Neg": np.negative, "Square": np.square, "Abs": np.abs}
COMPARE: dict[str, Callable[[Any, Any], Any]] = {"Less": np.less, "GreaterEqual": np.greater_equal, "Equal": np.equal}
OUTPUT_ARGS = {"Neg": "y", "Square": "y", "Abs": "y", "Max": "output", "Const": "output", "Identity": "output",
               "StatelessWhile": "output", "While": "output", "StatelessIf": "output", "If": "output"}  # fmt: skip


@dataclass
class Simple:
    """A constant, or an operation on values."""

    name: str
    op: str
    inputs: tuple[str, ...] = ()
    value: Array | None = None


@dataclass
class Block:
    """Statements, and which values are handed on; `args` are given from outside."""

    args: tuple[str, ...] = ()
    statements: list[Any] = field(default_factory=list)
    results: tuple[str, ...] = ()

    def free(self) -> list[str]:
        """Return the values of blocks around this one that it needs."""
        made, needed = set(self.args), {}
        for statement in self.statements:
            for name in statement.needs() if not isinstance(statement, Simple) else statement.inputs:
                if name not in made:
                    needed[name] = None
            made.update(statement.names if not isinstance(statement, Simple) else (statement.name,))
        needed.update((name, None) for name in self.results if name not in made)
        return list(needed)


@dataclass
class Condition:
    """``names = sides[max(left) compare max(right)]``."""

    names: tuple[str, ...]
    compare: str
    left: str
    right: str
    sides: tuple[Block, Block]

    def needs(self) -> list[str]:
        return [self.left, self.right, *self.sides[0].free(), *self.sides[1].free()]


@dataclass
class Loop:
    """``max(limit) mod (MOST_TURNS + 1)`` turns of a block; its args: the number of the turn, and what goes around."""

    names: tuple[str, ...]
    limit: str
    starts: tuple[str, ...]
    turn: Block

    def needs(self) -> list[str]:
        return [self.limit, *self.starts, *self.turn.free()]


class Program:
    """A random program.

    Attributes
    ----------
    feeds : dict of str to ndarray
        Placeholders, and some other values that are fed in place of what computes them.
    fetches : list of str
    """

    def __init__(self, seed: int, size: int = 8, depth: int = 3) -> None:
        self._random = random.Random(seed)
        self._count = 0
        self.placeholders = ["x0", "x1"]
        self.feeds = {name: self._value() for name in self.placeholders}
        self.block = self._block(self.placeholders, size, depth)
        made = [name for statement in self.block.statements for name in names_of(statement)]
        self.fetches = self._random.sample(made, min(4, len(made)))
        for name in self._random.sample(made, len(made) // 6):
            if name not in self.fetches:
                self.feeds[name] = self._value()

    # Making.

    def _value(self) -> Array:
        return np.array([self._random.randint(-9, 9) for _ in range(WIDTH)], np.int32)

    def _name(self, kind: str) -> str:
        self._count += 1
        return f"{kind}{self._count}"

    def _block(
        self, outer: Sequence[str], size: int, depth: int, args: tuple[str, ...] = (), results: int = 1
    ) -> Block:
        block = Block(args)
        scope = [*outer, *args]
        for _ in range(size):
            roll = self._random.random()
            if depth and roll < 0.2:
                made = self._condition(scope, depth)
            elif depth and roll < 0.4:
                made = self._loop(scope, depth)
            elif roll < 0.5:
                made = Simple(self._name("const"), "Const", (), self._value())
            else:
                op = self._random.choice([*BINARY, *UNARY])
                inputs = [self._pick(scope) for _ in range(2 if op in BINARY else 1)]
                made = Simple(self._name("op"), op, tuple(inputs))
            block.statements.append(made)
            scope.extend(names_of(made))
        block.results = tuple(self._pick(scope) for _ in range(results))
        return block

    def _pick(self, scope: Sequence[str]) -> str:
        recent = scope[-6:] if self._random.random() < 0.7 else scope
        return self._random.choice(list(recent))

    def _condition(self, scope: Sequence[str], depth: int) -> Condition:
        count = self._random.randint(1, 2)
        sides = tuple(self._block(scope, self._random.randint(0, 3), depth - 1, results=count) for _ in range(2))
        compare = self._random.choice(list(COMPARE))
        names = tuple(self._name("if") for _ in range(count))
        return Condition(names, compare, self._pick(scope), self._pick(scope), (sides[0], sides[1]))

    def _loop(self, scope: Sequence[str], depth: int) -> Loop:
        count = self._random.randint(1, 3)
        args = (self._name("turn"), *(self._name("arg") for _ in range(count)))
        turn = self._block(scope, self._random.randint(1, 4), depth - 1, args, count)
        names = tuple(self._name("loop") for _ in range(count))
        return Loop(names, self._pick(scope), tuple(self._pick(scope) for _ in range(count)), turn)

    # Computing.

    def run(self) -> list[Array]:
        """Return the values of the fetches."""
        values: dict[str, Array] = dict(self.feeds)
        with np.errstate(all="ignore"):
            self._run(self.block, values)
        return [values[name] for name in self.fetches]

    def _run(self, block: Block, values: dict[str, Array]) -> list[Array]:
        for statement in block.statements:
            found = self._evaluate(statement, values)
            for name, value in zip(names_of(statement), found, strict=True):
                values[name] = self.feeds.get(name, value)  # what is fed stays
        return [values[name] for name in block.results]

    def _evaluate(self, statement: Any, values: dict[str, Array]) -> list[Array]:
        if isinstance(statement, Simple):
            if statement.value is not None:
                return [statement.value]
            compute: Any = BINARY.get(statement.op) or UNARY[statement.op]
            return [compute(*(values[name] for name in statement.inputs))]
        if isinstance(statement, Condition):
            chosen = COMPARE[statement.compare](values[statement.left].max(), values[statement.right].max())
            return self._run(statement.sides[int(chosen)], dict(values))
        around = [values[name] for name in statement.starts]
        for number in range(int(values[statement.limit].max()) % (MOST_TURNS + 1)):
            inner = dict(values)
            inner.update(zip(statement.turn.args, [np.full(WIDTH, number, np.int32), *around], strict=True))
            around = self._run(statement.turn, inner)
        return around

    # Writing.

    def graph(self, form: str) -> GraphMaker:
        """Return the program as a graph of one of the `FORMS`."""
        maker = GraphMaker()
        refs = {name: maker.placeholder(name, INT) for name in self.placeholders}
        writer = {"straight": Straight, "functions": Functional, "frames": Frames}[form](maker, random.Random(0))
        writer.block(self.block, refs)
        return maker


def names_of(statement: Any) -> tuple[str, ...]:
    return (statement.name,) if isinstance(statement, Simple) else tuple(statement.names)


class Writer:
    """Writes statements into a graph or a function's body.

    Parameters
    ----------
    inside : bool
        Whether it is a function's body, where outputs are named by arg.
    pivot : str
        What everything that is made of nothing waits for.
    """

    def __init__(self, maker: GraphMaker, choices: random.Random, inside: bool = False, pivot: str = "") -> None:
        self.maker = maker
        self.choices = choices
        self.inside = inside
        self.pivot = pivot
        self.prefix = ""
        self._written: list[str] = []  # in this place: what others may wait for

    def op(self, op: str, name: str, *inputs: str, T: DataType = INT, **attrs: Any) -> str:
        self.maker.op(op, name, *inputs, T=T, **attrs)
        return self.ref(op, name)

    def ref(self, op: str, name: str, index: int = 0) -> str:
        if self.inside:
            return f"{name}:{OUTPUT_ARGS.get(op, 'z')}:{index}"
        return f"{name}:{index}" if index else name

    def const(self, name: str, value: Any) -> str:
        self.maker.const(name, value, *([self.pivot] if self.pivot else []))
        return self.ref("Const", name)

    def largest(self, name: str, source: str) -> str:
        axis = self.const(f"{name}/axis", np.array([0], np.int32))
        return self.op("Max", name, source, axis, Tidx=INT)

    def block(self, block: Block, refs: Refs) -> list[str]:
        """Write a block's statements; `refs` holds the values that it may use and gets those that it makes."""
        for statement in block.statements:
            if isinstance(statement, Simple):
                refs[statement.name] = self.simple(statement, refs)
            elif isinstance(statement, Condition):
                refs.update(zip(statement.names, self.condition(statement, refs), strict=True))
            else:
                refs.update(zip(statement.names, self.loop(statement, refs), strict=True))
        return [refs[name] for name in block.results]

    def simple(self, statement: Simple, refs: Refs) -> str:
        name = self.prefix + statement.name
        if statement.value is not None:
            return self.const(name, statement.value)
        waits = [f"^{self.choices.choice(self._written)}"] if self._written and self.choices.random() < 0.2 else []
        self._written.append(name)
        return self.op(statement.op, name, *(refs[source] for source in statement.inputs), *waits)

    def predicate(self, statement: Condition, refs: Refs) -> str:
        name = self.prefix + statement.names[0]
        left = self.largest(f"{name}/left", refs[statement.left])
        right = self.largest(f"{name}/right", refs[statement.right])
        return self.op(statement.compare, f"{name}/pred", left, right)

    def limit(self, statement: Loop, refs: Refs) -> str:
        name = self.prefix + statement.names[0]
        largest = self.largest(f"{name}/largest", refs[statement.limit])
        modulus = self.const(f"{name}/modulus", np.int32(MOST_TURNS + 1))
        return self.op("FloorMod", f"{name}/limit", largest, modulus)

    def named(self, names: Sequence[str], refs: Sequence[str]) -> list[str]:
        return [self.op("Identity", self.prefix + name, ref) for name, ref in zip(names, refs, strict=True)]

    def condition(self, statement: Condition, refs: Refs) -> list[str]:
        raise NotImplementedError

    def loop(self, statement: Loop, refs: Refs) -> list[str]:
        raise NotImplementedError


class Straight(Writer):
    """Both sides, and all turns that there might be; a selection says what counts."""

    def condition(self, statement: Condition, refs: Refs) -> list[str]:
        pred = self.predicate(statement, refs)
        sides = [self.block(side, dict(refs)) for side in statement.sides]
        return self._select(statement.names, pred, sides[1], sides[0])

    def loop(self, statement: Loop, refs: Refs) -> list[str]:
        limit = self.limit(statement, refs)
        around = [refs[name] for name in statement.starts]
        outer = self.prefix
        base = outer + statement.names[0]
        for number in range(MOST_TURNS):
            self.prefix = f"{base}/turn{number}/"
            turn = self.const(f"{self.prefix}number", np.full(WIDTH, number, np.int32))
            inner = {**refs, **dict(zip(statement.turn.args, [turn, *around], strict=True))}
            results = self.block(statement.turn, inner)
            scalar = self.const(f"{self.prefix}scalar", np.int32(number))
            live = self.op("Less", f"{self.prefix}live", scalar, limit)
            around = [
                self.op("SelectV2", f"{self.prefix}around{index}", live, result, former)
                for index, (result, former) in enumerate(zip(results, around, strict=True))
            ]
        self.prefix = outer
        return self.named(statement.names, around)

    def _select(self, names: Sequence[str], pred: str, yes: list[str], no: list[str]) -> list[str]:
        return [
            self.op("SelectV2", self.prefix + name, pred, left, right)
            for name, left, right in zip(names, yes, no, strict=True)
        ]


class Functional(Writer):
    """Functions that ``While`` and ``If`` call."""

    def condition(self, statement: Condition, refs: Refs) -> list[str]:
        base = statement.names[0]
        pred = self.predicate(statement, refs)
        captured = list(dict.fromkeys([*statement.sides[0].free(), *statement.sides[1].free()]))
        for number, side in enumerate(statement.sides):
            self._function(f"{base}_side{number}", captured, side, len(side.results))
        op = self.choices.choice(["If", "StatelessIf"])
        self.maker.call(
            op, f"{base}/call", pred, *(refs[name] for name in captured), Tcond=BOOL, Tin=[INT] * len(captured),
            Tout=[INT] * len(statement.names), then_branch=function(f"{base}_side1"),
            else_branch=function(f"{base}_side0"),
        )  # fmt: skip
        return self.named(statement.names, [self.ref(op, f"{base}/call", i) for i in range(len(statement.names))])

    def loop(self, statement: Loop, refs: Refs) -> list[str]:
        base = statement.names[0]
        limit = self.limit(statement, refs)
        captured = statement.turn.free()
        kinds = [INT] * (2 + len(statement.starts) + len(captured))
        variables = ["i", "n", *(f"v{index}" for index in range(len(kinds) - 2))]
        more = self._maker().function(f"{base}_more", dict.fromkeys(variables, INT), {"c": ("less:z:0", BOOL)})
        more.op("Less", "less", "i", "n", T=INT)
        self._turn(f"{base}_turn", statement, captured, variables)
        zero = self.const(f"{base}/zero", np.int32(0))
        op = self.choices.choice(["While", "StatelessWhile"])
        given = [zero, limit, *(refs[name] for name in statement.starts), *(refs[name] for name in captured)]
        self.maker.call(
            op, f"{base}/call", *given, T=kinds, cond=function(f"{base}_more"), body=function(f"{base}_turn")
        )
        outputs = [self.ref(op, f"{base}/call", 2 + index) for index in range(len(statement.names))]
        return self.named(statement.names, outputs)

    library: GraphMaker | None = None

    def _maker(self) -> GraphMaker:
        """Return the maker of the graph, which holds the functions."""
        return self.library or self.maker

    def _body(self, name: str, variables: Sequence[str], outputs: dict[str, tuple[str, DataType]]) -> Functional:
        body = self._maker().function(name, dict.fromkeys(variables, INT), outputs)
        writer = Functional(body, self.choices, inside=True)
        writer.library = self._maker()
        return writer

    def _function(self, name: str, captured: list[str], block: Block, count: int) -> None:
        outputs = {f"r{index}": (f"result{index}:output:0", INT) for index in range(count)}
        writer = self._body(name, [f"v{index}" for index in range(len(captured))], outputs)
        refs = {outer: f"v{index}" for index, outer in enumerate(captured)}
        writer.named([f"result{index}" for index in range(count)], writer.block(block, refs))

    def _turn(self, name: str, statement: Loop, captured: list[str], variables: list[str]) -> None:
        count = len(statement.starts)
        outputs = {f"r_{variable}": (f"next_{variable}:output:0", INT) for variable in variables}
        writer = self._body(name, variables, outputs)
        wide = writer.const("wide", np.zeros(WIDTH, np.int32))
        turn = writer.op("AddV2", "turn", "i", wide)
        refs = dict(zip(statement.turn.args, [turn, *variables[2 : 2 + count]], strict=True))
        refs.update(zip(captured, variables[2 + count :], strict=True))
        results = writer.block(statement.turn, refs)
        one = writer.const("one", np.int32(1))
        following = [writer.op("AddV2", "following", "i", one), "n", *results, *variables[2 + count :]]
        writer.named([f"next_{variable}" for variable in variables], following)


class Frames(Writer):
    """Switches, merges and frames, with the control edges that TensorFlow's clients write."""

    def _place(self, pivot: str) -> Frames:
        return Frames(self.maker, self.choices, pivot=pivot)

    def condition(self, statement: Condition, refs: Refs) -> list[str]:
        base = statement.names[0]
        pred = self.predicate(statement, refs)
        self.op("Switch", f"{base}/pivot", pred, pred, T=BOOL)
        results = []
        for number, side in enumerate(statement.sides):
            pivot = f"{base}/pivot{number}"
            self.op("Identity", pivot, f"{base}/pivot:{number}", T=BOOL)
            place = self._place(pivot)
            inner = {}
            for index, name in enumerate(side.free()):
                switch = self.op("Switch", f"{base}/side{number}/in{index}", refs[name], pred)
                inner[name] = f"{switch}:1" if number else switch
            results.append(place.block(side, inner))
        return [
            self.op("Merge", name, *(results[number][index] for number in (0, 1)), N=2)
            for index, name in enumerate(statement.names)
        ]

    def loop(self, statement: Loop, refs: Refs) -> list[str]:
        base = statement.names[0]
        options = {"frame_name": base, "parallel_iterations": self.choices.choice([1, 2, 10])}
        limit = self.limit(statement, refs)
        zero = self.const(f"{base}/zero", np.int32(0))
        around = ["i", *(f"v{index}" for index in range(len(statement.starts)))]
        for name, source in zip(around, [zero, *(refs[name] for name in statement.starts)], strict=True):
            self.op("Enter", f"{base}/{name}/enter", source, **options)
            self.op("Merge", f"{base}/{name}/merge", f"{base}/{name}/enter", f"{base}/{name}/next", N=2)
        self.op("Enter", f"{base}/limit_in", limit, is_constant=True, **options)
        self.op("Less", f"{base}/less", f"{base}/i/merge", f"{base}/limit_in")
        self.op("LoopCond", f"{base}/cond", f"{base}/less")
        for name in around:
            self.op("Switch", f"{base}/{name}/switch", f"{base}/{name}/merge", f"{base}/cond")
            self.op("Identity", f"{base}/{name}/body", f"{base}/{name}/switch:1")
        pivot = f"{base}/i/body"
        place = self._place(pivot)
        wide = place.const(f"{base}/wide", np.zeros(WIDTH, np.int32))
        turn = place.op("AddV2", f"{base}/turn", f"{base}/i/body", wide)
        inner = dict(zip(statement.turn.args, [turn, *(f"{base}/{name}/body" for name in around[1:])], strict=True))
        for index, name in enumerate(statement.turn.free()):
            enter = self.op("Enter", f"{base}/in{index}", refs[name], is_constant=True, **options)
            # or what hangs on constants of the loop alone would run once more than the others
            inner[name] = place.op("Identity", f"{base}/in{index}/body", enter, f"^{pivot}")
        results = place.block(statement.turn, inner)
        one = place.const(f"{base}/one", np.int32(1))
        following = place.op("AddV2", f"{base}/following", f"{base}/i/body", one)
        for name, result in zip(around, [following, *results], strict=True):
            self.op("NextIteration", f"{base}/{name}/next", result)
        return [
            self.op("Exit", name, f"{base}/{inside}/switch")
            for name, inside in zip(statement.names, around[1:], strict=True)
        ]
