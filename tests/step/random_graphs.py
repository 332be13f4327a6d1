"""Random graphs with nested conditionals and loops, stacks and tensor arrays, and what they must compute.

A generator writes a graph the way that TensorFlow does in Python, with Switch and Merge for conditionals and frames for
loops, and beside it a small program in Python that computes the same values.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from runtime.dtypes import DataType
from tests.step.maker import GraphMaker

INT = DataType.INT32

_MASK = (1 << 32) - 1


class Env(dict[str, int]):
    """Values by tensor name: those of one turn of a loop, in front of those around it.

    `kept` has what a loop's turns have left behind, in order.
    """

    def __init__(self, around: Env | None = None) -> None:
        super().__init__()
        self._around = around
        self.kept: dict[str, list[int]] = {}

    def __missing__(self, name: str) -> int:
        if self._around is None:
            raise KeyError(name)
        return self._around[name]


Statement = Callable[[Env], None]


def wrap(value: int) -> int:
    """Return a number as 32 bits with sign keep it."""
    value &= _MASK
    return value - (1 << 32) if value >> 31 else value


_BINARY: dict[str, Callable[[int, int], int]] = {
    "Add": lambda a, b: wrap(a + b),
    "Sub": lambda a, b: wrap(a - b),
    "Mul": lambda a, b: wrap(a * b),
    "Maximum": max,
    "Minimum": min,
}
_UNARY: dict[str, Callable[[int], int]] = {
    "Neg": lambda a: wrap(-a),
    "Identity": lambda a: a,
    "Square": lambda a: wrap(a * a),
}
_COMPARE: dict[str, Callable[[int, int], bool]] = {
    "Less": lambda a, b: a < b,
    "GreaterEqual": lambda a, b: a >= b,
    "Equal": lambda a, b: a == b,
}


@dataclass
class Place:
    """The graph itself, one side of a conditional, or the body of a loop.

    `pivot` is a node that is live exactly when the place runs; `values` are tensors made or brought in here.
    """

    parent: Place | None = None
    pivot: str = ""
    predicate: str = ""
    side: int = 0
    frame: str = ""
    parallel: int = 10
    values: list[str] = field(default_factory=list)
    brought: dict[str, str] = field(default_factory=dict)
    program: list[Statement] = field(default_factory=list)


class RandomGraph:
    """A graph, its feeds, and a function that computes its values.

    Attributes
    ----------
    maker : GraphMaker
    feeds : dict of str to int
        Placeholders, and sometimes other tensors, with the values to feed.
    fetches : list of str
        Live tensors.
    dead_fetch : str or None
        A tensor of a branch that is not taken with these feeds.
    """

    def __init__(self, seed: int, control_flow: bool = True, size: int = 12) -> None:
        self._random = random.Random(seed)
        self._control_flow = control_flow
        self._count = 0
        self._made: dict[str, Place] = {}  # nodes of ours, and where they are
        self._inside: list[tuple[str, str, int]] = []  # tensor of a branch at the top, its predicate, its side
        self.maker = GraphMaker()
        self._root = root = Place()
        self.feeds = {}
        for number in range(3):
            name = self.maker.placeholder(f"x{number}", INT)
            root.values.append(name)
            self.feeds[f"{name}:0"] = self._random.randint(-20, 20)
        self._block(root, size, 3)
        made = root.values[len(self.feeds) :]
        self.fetches = [f"{name}:0" for name in self._random.sample(made, min(5, len(made)))]
        for name in self._random.sample(root.values, len(root.values) // 6):
            if f"{name}:0" not in self.fetches:
                self.feeds[f"{name}:0"] = self._random.randint(-20, 20)

    def expected(self) -> list[int]:
        """Return the values of the fetches."""
        env = self._run()
        return [env[name.removesuffix(":0")] for name in self.fetches]

    @property
    def dead_fetch(self) -> str | None:
        env = self._run()
        for name, predicate, side in self._inside:
            if f"{name}:0" not in self.feeds and env[predicate] != side:
                return f"{name}:0"
        return None

    def _run(self) -> Env:
        env = Env()
        env.update((name.removesuffix(":0"), value) for name, value in self.feeds.items())
        for statement in self._root.program:
            statement(env)
        return env

    def _name(self, kind: str) -> str:
        self._count += 1
        return f"{kind}{self._count}"

    def _controls(self, place: Place) -> list[str]:
        """Return some control inputs from nodes of the place."""
        local = [name for name in place.values if ":" not in name and name in self._made]
        chosen = self._random.sample(local, min(len(local), 2)) if self._random.random() < 0.2 else []
        return [f"^{name}" for name in chosen]

    def _block(self, place: Place, size: int, depth: int) -> None:
        """Add statements to a place; each leaves a value."""
        for _ in range(size):
            roll = self._random.random()
            if self._control_flow and depth and roll < 0.15:
                self._conditional(place, depth)
            elif self._control_flow and depth and roll < 0.27:
                self._loop(place, depth)
            elif roll < 0.37:
                self._constant(place)
            else:
                self._operation(place)

    def _set(self, place: Place, name: str, compute: Callable[[Env], int]) -> None:
        def statement(env: Env) -> None:
            if f"{name}:0" not in self.feeds:  # what is fed stays
                env[name] = compute(env)

        place.program.append(statement)

    def _constant(self, place: Place) -> str:
        name = self._name("const")
        number = self._random.randint(-9, 9)
        self.maker.const(name, np.int32(number), *([place.pivot] if place.pivot else []))
        self._made[name] = place
        place.values.append(name)
        self._set(place, name, lambda env: number)
        return name

    def _operation(self, place: Place) -> str:
        if self._random.random() < 0.25:
            op, unary = self._random.choice(list(_UNARY.items()))
            name = self._name("op")
            source = self._pick(place)
            self.maker.op(op, name, source, *self._controls(place), T=INT)
            self._set(place, name, lambda env: unary(env[source]))
        else:
            op, binary = self._random.choice(list(_BINARY.items()))
            name = self._name("op")
            left, right = self._pick(place), self._pick(place)
            self.maker.op(op, name, left, right, *self._controls(place), T=INT)
            self._set(place, name, lambda env: binary(env[left], env[right]))
        self._made[name] = place
        place.values.append(name)
        return name

    def _pick(self, place: Place) -> str:
        """Return a value of the place, or bring one in from around it."""
        around = place.parent
        if around is not None and (not place.values or self._random.random() < 0.3):
            return self._bring(place, self._pick(around))
        if not place.values:
            return self._constant(place)
        return self._random.choice(place.values[-8:])

    def _bring(self, place: Place, outer: str) -> str:
        """Make a value of the place around usable in a place: by a Switch, or by a constant Enter."""
        known = place.brought.get(outer)
        if known is not None:
            return known
        if place.frame:
            name = self._name("enter")
            self.maker.op(
                "Enter",
                name,
                outer,
                T=INT,
                frame_name=place.frame,
                is_constant=True,
                parallel_iterations=place.parallel,
            )
        else:
            switch = self._name("switch")
            self.maker.op("Switch", switch, outer, place.predicate, T=INT)
            name = f"{switch}:1" if place.side else switch
        place.brought[outer] = name
        place.values.append(name)
        place.program.append(lambda env: env.__setitem__(name, env[outer]))
        return name

    def _conditional(self, place: Place, depth: int) -> None:
        op, compare = self._random.choice(list(_COMPARE.items()))
        predicate = self._name("pred")
        left, right = self._pick(place), self._pick(place)
        self.maker.op(op, predicate, left, right, T=INT)
        place.program.append(lambda env: env.__setitem__(predicate, int(compare(env[left], env[right]))))
        pivot = self._name("pivot")
        self.maker.op("Switch", pivot, predicate, predicate, T=DataType.BOOL)
        results = []
        bodies = []
        for side in (0, 1):
            self.maker.op("Identity", f"{pivot}_{side}", f"{pivot}:{side}" if side else pivot, T=DataType.BOOL)
            branch = Place(place, f"{pivot}_{side}", predicate, side)
            bodies.append(branch.program)
            self._block(branch, self._random.randint(1, 4), depth - 1)
            result = self._operation(branch)
            results.append(result)
            if place.parent is None:
                self._inside.append((result, predicate, side))
        merge = self._name("merge")
        order = [0, 1] if self._random.random() < 0.5 else [1, 0]
        self.maker.op("Merge", merge, results[order[0]], results[order[1]], T=INT, N=2)
        self._made[merge] = place
        place.values.append(merge)

        def statement(env: Env) -> None:
            side = env[predicate]
            for inner in bodies[side]:
                inner(env)
            if f"{merge}:0" not in self.feeds:
                env[merge] = env[results[side]]

        place.program.append(statement)

    def _loop(self, place: Place, depth: int) -> None:
        """Add ``for i in range(turns): acc = ...`` with 5 turns at most, which may keep what each turn makes."""
        frame = self._name("frame")
        turns = self._random.randint(0, 5)
        memory = self._random.choice([None, None, "stack", "array"])
        acc = self._pick(place)
        variables = {"a": (acc, INT)}
        if memory == "stack":
            self._place_constant(place, f"{frame}/no_limit", np.int32(-1))
            self.maker.call("StackV2", f"{frame}/stack", f"{frame}/no_limit", elem_type=INT, stack_name="")
        elif memory == "array":
            self._place_constant(place, f"{frame}/size", np.int32(turns))
            self.maker.call("TensorArrayV3", f"{frame}/array", f"{frame}/size", dtype=INT, element_shape=(),
                            dynamic_size=False, clear_after_read=True, tensor_array_name="")  # fmt: skip
            variables["flow"] = (f"{frame}/array:1", DataType.FLOAT)
        body = self._open_loop(place, frame, turns, variables)
        self._block(body, self._random.randint(1, 4), depth - 1)
        # what goes to the next turn must end with the loop, and not hang on its constants alone
        last, result = self._operation(body), f"{frame}/last"
        self.maker.op("Sub", result, last, f"{frame}/ib", T=INT)
        self._set(body, result, lambda env: wrap(env[last] - env[f"{frame}/ib"]))
        results = {"a": (result, INT)}
        if memory == "stack":
            handle = self._enter_handle(body, f"{frame}/stack")
            self.maker.call("StackPushV2", f"{frame}/push", handle, result, T=INT, swap_memory=False)
            self._close_loop(frame, results, f"{frame}/push")
        else:
            if memory == "array":
                handle = self._enter_handle(body, f"{frame}/array")
                self.maker.call("TensorArrayWriteV3", f"{frame}/write", handle, f"{frame}/ib", result, f"{frame}/flowb",
                                T=INT)  # fmt: skip
                results["flow"] = (f"{frame}/write", DataType.FLOAT)
            self._close_loop(frame, results)
        self._made[f"{frame}/out"] = place
        place.values.append(f"{frame}/out")
        kept = f"{frame}/kept"  # what the turns made, by turn

        def statement(env: Env) -> None:
            value = env[acc]
            made = []
            for number in range(turns):
                turn = Env(env)
                turn[f"{frame}/ib"], turn[f"{frame}/ab"] = number, value
                for inner_statement in body.program:
                    inner_statement(turn)
                value = turn[result]
                made.append(value)
            if f"{frame}/out:0" not in self.feeds:
                env[f"{frame}/out"] = value
            env.kept[kept] = made

        place.program.append(statement)
        if memory == "stack":
            self._popping_loop(place, frame, turns)
        elif memory == "array":
            self._gather(place, frame, turns)

    def _place_constant(self, place: Place, name: str, value: Any) -> None:
        self.maker.const(name, value, *([place.pivot] if place.pivot else []))

    def _open_loop(self, place: Place, frame: str, turns: int, variables: dict[str, tuple[str, DataType]],
                   wait: str = "") -> Place:
        """Write what stands before a loop's body; return the body, which has the number of the turn and the value."""
        parallel = self._random.choice([1, 2, 10])
        options = {"frame_name": frame, "parallel_iterations": parallel}
        controls = [item for item in (place.pivot, wait) if item]
        self.maker.const(f"{frame}/zero", np.int32(0), *controls)
        for name, (start, kind) in {"i": (f"{frame}/zero", INT), **variables}.items():
            self.maker.op("Enter", f"{frame}/{name}0", start, T=kind, **options)
            self.maker.op("Merge", f"{frame}/{name}", f"{frame}/{name}0", f"{frame}/{name}_next", T=kind, N=2)
        self.maker.const(f"{frame}/limit", np.int32(turns), f"{frame}/i")
        self.maker.op("Less", f"{frame}/less", f"{frame}/i", f"{frame}/limit", T=INT)
        self.maker.op("LoopCond", f"{frame}/cond", f"{frame}/less")
        for name, (_, kind) in {"i": ("", INT), **variables}.items():
            self.maker.op("Switch", f"{frame}/{name}s", f"{frame}/{name}", f"{frame}/cond", T=kind)
            self.maker.op("Identity", f"{frame}/{name}b", f"{frame}/{name}s:1", T=kind)
        return Place(place, f"{frame}/ib", frame=frame, parallel=parallel, values=[f"{frame}/ib", f"{frame}/ab"])

    def _close_loop(self, frame: str, results: dict[str, tuple[str, DataType]], wait: str = "") -> None:
        """Write what stands behind a loop's body; the counter waits for `wait`."""
        self.maker.const(f"{frame}/one", np.int32(1), f"{frame}/ib")
        self.maker.op("Add", f"{frame}/ia", f"{frame}/ib", f"{frame}/one", *([f"^{wait}"] if wait else []), T=INT)
        for name, (result, kind) in {"i": (f"{frame}/ia", INT), **results}.items():
            self.maker.op("NextIteration", f"{frame}/{name}_next", result, T=kind)
        for name, (_, kind) in results.items():
            out = f"{frame}/out" if name == "a" else f"{frame}/{name}_out"
            self.maker.op("Exit", out, f"{frame}/{name}s", T=kind)

    def _enter_handle(self, body: Place, source: str) -> str:
        name = self._name("handle")
        self.maker.op("Enter", name, source, T=DataType.RESOURCE, frame_name=body.frame, is_constant=True,
                      parallel_iterations=body.parallel)  # fmt: skip
        return name

    def _popping_loop(self, place: Place, pushed: str, turns: int) -> None:
        """Add a loop that takes from a stack what another one has left there, as gradients of loops do."""
        frame, start = f"{pushed}/back", self._pick(place)
        body = self._open_loop(place, frame, turns, {"a": (start, INT)}, wait=f"{pushed}/out")
        handle = self._enter_handle(body, f"{pushed}/stack")
        self.maker.call("StackPopV2", f"{frame}/pop", handle, f"^{frame}/ib", elem_type=INT)
        self.maker.op("Sub", f"{frame}/last", f"{frame}/pop", f"{frame}/ab", T=INT)
        self._close_loop(frame, {"a": (f"{frame}/last", INT)}, f"{frame}/pop")
        self._made[f"{frame}/out"] = place
        place.values.append(f"{frame}/out")

        def compute(env: Env) -> int:
            value = env[start]
            for popped in reversed(env.kept[f"{pushed}/kept"]):
                value = wrap(popped - value)
            return value

        self._set(place, f"{frame}/out", compute)

    def _gather(self, place: Place, frame: str, turns: int) -> None:
        """Add up what a loop has written into an array."""
        self._place_constant(place, f"{frame}/all", np.arange(turns, dtype=np.int32))
        self.maker.call("TensorArrayGatherV3", f"{frame}/gather", f"{frame}/array", f"{frame}/all", f"{frame}/flow_out",
                        dtype=INT, element_shape=())  # fmt: skip
        self._place_constant(place, f"{frame}/axis", np.array([0], np.int32))
        self.maker.op("Sum", f"{frame}/total", f"{frame}/gather", f"{frame}/axis", T=INT, Tidx=INT)
        self._made[f"{frame}/total"] = place
        place.values.append(f"{frame}/total")
        self._set(place, f"{frame}/total", lambda env: wrap(sum(env.kept[f"{frame}/kept"])))
