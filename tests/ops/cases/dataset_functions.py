"""Cases of datasets that call functions: maps, filters, groups, what one element is made into, parsed examples."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import numpy as np

from runtime.dtypes import DataType
from tests.ops.case import Case, Run, as_array, const, graph_case, node
from tests.ops.example_messages import example
from tests.ops.pipeline import COUNT, WIDE, Pipeline
from tests.ops.values import TYPES

F, N, L, S, B, V = (DataType.FLOAT, DataType.INT32, DataType.INT64, DataType.STRING, DataType.BOOL, DataType.VARIANT)
SCALAR_VARIANT = ((V, ()),)
ONE, TWO, THREE = np.int64(1), np.int64(2), np.int64(3)

# TensorFlow numbers the datasets of a process, and says where they are in a pipeline that it has rewritten.
WHERE = re.compile(r"Error in user-defined function passed to \w*:\d+ transformation with iterator: [\w:]*: ")

MAPS: dict[str, list[Any]] = {
    "MapDataset": [], "ParallelMapDataset": [np.int32(2)], "ParallelMapDatasetV2": [TWO],
}
FILTERS: dict[str, list[Any]] = {"FilterDataset": [], "TakeWhileDataset": []}
INTERLEAVES: dict[str, list[Any]] = {
    "InterleaveDataset": [], "ParallelInterleaveDatasetV2": [TWO], "ParallelInterleaveDatasetV3": [TWO],
    "ParallelInterleaveDatasetV4": [ONE, ONE, TWO], "LegacyParallelInterleaveDatasetV2": [ONE, ONE],
    "ParallelInterleaveDataset": [np.bool_(False), ONE, ONE],
}
LEGACY = ("LegacyParallelInterleaveDatasetV2", "ParallelInterleaveDataset")


def cases() -> Iterator[Case]:
    """Yield the cases."""
    yield from _wide()
    yield from _maps()
    yield from _captured()
    yield from _filters()
    yield from _scans()
    yield from _flattened()
    yield from _grouped()
    yield _grouped_wide()
    yield from _generated()
    yield from _reduced()
    yield from _parsed()


def _attrs(op: str) -> dict[str, Any]:
    return {"deterministic": "true"} if op in ("ParallelInterleaveDatasetV3", "ParallelInterleaveDatasetV4",
                                               "LegacyParallelInterleaveDatasetV2", "ParallelMapDatasetV2") else {}


def _wide() -> Iterator[Case]:
    """Every op hands elements of all types to its function, and takes them from it."""
    for op, extra in MAPS.items():
        pipe = Pipeline()
        made = pipe.add(op, pipe.wide(), *extra, f=pipe.same(), Targuments=[], **_attrs(op))
        yield pipe.case(op, "every type", made, 3)
    for op, extra in FILTERS.items():
        pipe = Pipeline()
        made = pipe.add(op, pipe.wide(), *extra, predicate=pipe.always(), Targuments=[], **_attrs(op))
        yield pipe.case(op, "every type", made, 3)
    pipe = Pipeline()
    source = pipe.wide()
    batched = [(kind, (None, 2)) for kind in TYPES]
    made = pipe.add("MapAndBatchDataset", source, TWO, TWO, np.bool_(False), f=pipe.same(), Targuments=[],
                    signature=batched)
    yield pipe.case("MapAndBatchDataset", "every type", made, 2, signature=batched)
    pipe = Pipeline()
    source = pipe.wide()
    kinds = {f"x{place}": kind for place, kind in enumerate(TYPES)}
    both = {**{f"s{place}": kind for place, kind in enumerate(TYPES)}, **kinds}
    scan = pipe.body("scan", both, {**{f"t{place}": (f"x{place}", kind) for place, kind in enumerate(TYPES)},
                                    **{f"y{place}": (f"s{place}", kind) for place, kind in enumerate(TYPES)}})
    first = [value[0] for value in WIDE]
    made = pipe.add("ScanDataset", source, *first, f=scan, Tstate=list(TYPES), Targuments=[])
    yield pipe.case("ScanDataset", "every type", made, 3)
    last = pipe.body("last", both, {f"t{place}": (f"x{place}", kind) for place, kind in enumerate(TYPES)})
    pipe.add("ReduceDataset", source, *first, f=last, Tstate=list(TYPES), Targuments=[])
    yield graph_case("ReduceDataset", "every type", pipe.nodes,
                     Run({}, [f"{pipe.nodes[-1].name}:{place}" for place in range(len(TYPES))]), library=pipe.library)
    for op, extra in {"FlatMapDataset": [], **{op: [TWO, ONE, *more] for op, more in INTERLEAVES.items()}}.items():
        pipe = Pipeline()
        source = pipe.wide()
        rows = pipe.body("rows", kinds, {"y": ("rows:handle:0", V)},
                         node("TensorSliceDataset", "rows", list(kinds), Toutput_types=list(TYPES),
                              output_shapes=[()] * len(TYPES)))
        pipe.signature = [(kind, ()) for kind in TYPES]
        yield pipe.case(op, "every type", pipe.add(op, source, *extra, f=rows, Targuments=[], **_attrs(op)), 6)


def _inverse(pipe: Pipeline) -> Any:
    """Add the function that fails for zero."""
    return pipe.body("inverse", {"x": L}, {"y": ("div:z:0", L)}, const("one", ONE),
                     node("FloorDiv", "div", ["one:output:0", "x"], T=L))


def _maps() -> Iterator[Case]:
    for op, extra in MAPS.items():
        pipe = Pipeline()
        made = pipe.add(op, pipe.numbers(4), *extra, f=pipe.times(), Targuments=[], **_attrs(op))
        yield pipe.case(op, "numbers", made, 4, passes=2)
        pipe = Pipeline()
        made = pipe.add(op, pipe.numbers(3), *extra, f=_inverse(pipe), Targuments=[], **_attrs(op))
        yield pipe.case(op, "a failing element", made, 3, text=WHERE)
    for op, none in (("ParallelMapDataset", np.int32(0)), ("ParallelMapDatasetV2", np.int64(0))):
        pipe = Pipeline()
        yield pipe.case(op, "no calls", pipe.add(op, pipe.numbers(1), none, f=pipe.times(), Targuments=[]), 1)
    for size, calls, drop in ((2, 2, False), (2, 2, True), (0, 1, False), (2, 0, False), (9, 1, False)):
        pipe = Pipeline([(L, (None,))])
        made = pipe.add("MapAndBatchDataset", pipe.numbers(5), np.int64(size), np.int64(calls), np.bool_(drop),
                        f=pipe.times(), Targuments=[])
        yield pipe.case("MapAndBatchDataset", f"{size} {calls} {drop}", made, 3)


def _captured() -> Iterator[Case]:
    """Functions with arguments of every type from outside."""
    for op, extra in MAPS.items():
        pipe = Pipeline([(kind, (3, 2)) for kind in TYPES])
        outside = {f"o{place}": kind for place, kind in enumerate(TYPES)}
        body = pipe.body("outside", {"x": L, **outside}, {f"y{place}": (f"o{place}", kind)
                                                          for place, kind in enumerate(TYPES)})
        made = pipe.add(op, pipe.numbers(2), *WIDE, *extra, f=body, Targuments=list(TYPES), **_attrs(op))
        yield pipe.case(op, "arguments", made, 2)
    for op, extra in {"FilterDataset": [], "TakeWhileDataset": []}.items():
        pipe = Pipeline()
        body = pipe.body("outside", {"x": L, **outside}, {"y": ("o9", B)})
        assert TYPES[9] is B
        made = pipe.add(op, pipe.numbers(2), *WIDE[:9], np.bool_(True), *WIDE[10:], *extra, predicate=body,
                        Targuments=list(TYPES), **_attrs(op))
        yield pipe.case(op, "arguments", made, 2)
    pipe = Pipeline([(kind, (None, 3, 2)) for kind in TYPES])
    body = pipe.body("outside", {"x": L, **outside}, {f"y{place}": (f"o{place}", kind)
                                                      for place, kind in enumerate(TYPES)})
    made = pipe.add("MapAndBatchDataset", pipe.numbers(3), *WIDE, TWO, ONE, np.bool_(False), f=body,
                    Targuments=list(TYPES))
    yield pipe.case("MapAndBatchDataset", "arguments", made, 2)
    for op, extra in {"FlatMapDataset": [], **{op: [TWO, ONE, *more] for op, more in INTERLEAVES.items()}}.items():
        pipe = Pipeline([(kind, (3, 2)) for kind in TYPES])
        body = pipe.body("outside", {"x": L, **outside}, {"y": ("whole:handle:0", V)},
                         node("TensorDataset", "whole", list(outside), Toutput_types=list(TYPES),
                              output_shapes=[(3, 2)] * len(TYPES)))
        made = pipe.add(op, pipe.numbers(2), *WIDE, *extra, f=body, Targuments=list(TYPES), **_attrs(op))
        yield pipe.case(op, "arguments", made, 2)
    pipe = Pipeline()
    state = {"s": L, "x": L, **outside}
    body = pipe.body("outside", state, {"t": ("x", L), "y": ("s", L)})
    made = pipe.add("ScanDataset", pipe.numbers(2), THREE, *WIDE, f=body, Tstate=[L], Targuments=list(TYPES))
    yield pipe.case("ScanDataset", "arguments", made, 2)
    pipe = Pipeline()
    body = pipe.body("outside", state, {"t": ("x", L)})
    made = pipe.add("ReduceDataset", pipe.numbers(2), THREE, *WIDE, f=body, Tstate=[L], Targuments=list(TYPES))
    yield graph_case("ReduceDataset", "arguments", pipe.nodes, Run({}, [f"{made}:0"]), library=pipe.library)


def _filters() -> Iterator[Case]:
    for op, extra in FILTERS.items():
        for start in (0, 5):
            pipe = Pipeline()
            made = pipe.add(op, pipe.numbers(5, start), *extra, predicate=pipe.above(), Targuments=[], **_attrs(op))
            yield pipe.case(op, f"from {start}", made, 5)
        pipe = Pipeline()
        failing = pipe.body("failing", {"x": L}, {"y": ("positive:z:0", B)}, const("one", ONE),
                            node("FloorDiv", "div", ["one:output:0", "x"], T=L),
                            node("Less", "positive", ["x", "div:z:0"], T=L))
        made = pipe.add(op, pipe.numbers(3), *extra, predicate=failing, Targuments=[], **_attrs(op))
        yield pipe.case(op, "a failing element", made, 1, text=WHERE)


def _scans() -> Iterator[Case]:
    pipe = Pipeline()
    body = pipe.body("step", {"s": L, "x": L}, {"t": ("add:z:0", L), "y": ("mul:z:0", L)},
                     node("AddV2", "add", ["s", "x"], T=L), node("Mul", "mul", ["s", "x"], T=L))
    made = pipe.add("ScanDataset", pipe.numbers(5), ONE, f=body, Tstate=[L], Targuments=[])
    yield pipe.case("ScanDataset", "sums", made, 5, passes=2)


def _flattened() -> Iterator[Case]:
    def sized(pipe: Pipeline) -> Any:
        return pipe.body("sized", {"i": L, "n": L}, {"y": ("range:handle:0", V)}, const("ten", np.int64(10)),
                         const("one", ONE), node("Mul", "start", ["i", "ten:output:0"], T=L),
                         node("AddV2", "end", ["start:z:0", "n"], T=L),
                         node("RangeDataset", "range", ["start:z:0", "end:z:0", "one:output:0"], output_types=[L],
                              output_shapes=[()]))

    sizes = np.array([3, 0, 1, 5, 2, 2])
    for op, more in {"FlatMapDataset": [], **INTERLEAVES}.items():
        for cycle, block in ((1, 1), (2, 1), (2, 3), (3, 2), (9, 4), (0, 1), (1, 0)):
            pipe = Pipeline()
            source = pipe.slices(np.arange(6), sizes)
            pipe.signature = COUNT
            extra = [np.int64(cycle), np.int64(block), *more] if op in INTERLEAVES else []
            if op in LEGACY and cycle > 3:  # the order of TensorFlow's elements is then one of several
                continue
            made = pipe.add(op, source, *extra, f=sized(pipe), Targuments=[], **_attrs(op))
            yield pipe.case(op, f"cycle {cycle} block {block}", made, int(sizes.sum()))
            if not extra:
                break


def _grouped() -> Iterator[Case]:
    for size, shift, stride, drop in ((3, 2, 2, False), (3, 1, 2, True), (2, 4, 1, False), (9, 9, 1, True),
                                      (0, 1, 1, False), (2, 0, 1, False), (2, 1, 0, False)):
        pipe = Pipeline([(L, (None,))])
        numbers = [np.int64(value) for value in (size, shift, stride)]
        windows = pipe.add("WindowDataset", pipe.numbers(7), *numbers, np.bool_(drop), signature=SCALAR_VARIANT)
        batch = pipe.body("batch", {"w": V}, {"y": ("batch:handle:0", V)}, const("three", THREE),
                          const("no", np.bool_(False)),
                          node("BatchDatasetV2", "batch", ["w", "three:output:0", "no:output:0"], output_types=[L],
                               output_shapes=[(None,)]))
        made = pipe.add("FlatMapDataset", windows, f=batch, Targuments=[])
        yield pipe.case("WindowDataset", f"{size} {shift} {stride} {drop}", made, 7)
    for size in (2, 0):
        for kinds in ((), TYPES):
            pipe = Pipeline([(L, (None,))])
            outside = {f"o{place}": kind for place, kind in enumerate(kinds)}
            key = pipe.body("key", {"x": L, **outside}, {"y": ("mod:z:0", L)}, const("three", THREE),
                            node("FloorMod", "mod", ["x", "three:output:0"], T=L))
            reduced = pipe.body("reduce", {"k": L, "w": V, **outside}, {"y": ("batch:handle:0", V)},
                                const("two", TWO), const("no", np.bool_(False)),
                                node("BatchDatasetV2", "batch", ["w", "two:output:0", "no:output:0"],
                                     output_types=[L], output_shapes=[(None,)]))
            sized = pipe.body("size", {"k": L, **outside}, {"y": ("size:output:0", L)}, const("size", np.int64(size)))
            arguments = list(WIDE[:len(kinds)])
            types = {f"T{name}_func_other_arguments": list(kinds) for name in ("key", "reduce", "window_size")}
            made = pipe.add("GroupByWindowDataset", pipe.numbers(9), *arguments * 3, key_func=key, reduce_func=reduced,
                            window_size_func=sized, **types)
            yield pipe.case("GroupByWindowDataset", f"{size} {len(kinds)} arguments", made, 6)


def _grouped_wide() -> Case:
    """Return the case of groups of elements of every type."""
    pipe = Pipeline()
    source = pipe.wide()
    pipe.signature = [(kind, (None, 2)) for kind in TYPES]
    kinds = {f"x{place}": kind for place, kind in enumerate(TYPES)}
    key = pipe.body("key", kinds, {"y": ("one:output:0", L)}, const("one", ONE))
    reduced = pipe.body("reduce", {"k": L, "w": V}, {"y": ("batch:handle:0", V)}, const("two", TWO),
                        const("no", np.bool_(False)),
                        node("BatchDatasetV2", "batch", ["w", "two:output:0", "no:output:0"], output_types=list(TYPES),
                             output_shapes=[(None, 2)] * len(TYPES)))
    sized = pipe.body("size", {"k": L}, {"y": ("two:output:0", L)}, const("two", TWO))
    made = pipe.add("GroupByWindowDataset", source, key_func=key, reduce_func=reduced, window_size_func=sized,
                    **{f"T{name}_func_other_arguments": [] for name in ("key", "reduce", "window_size")})
    return pipe.case("GroupByWindowDataset", "every type", made, 2)


def _generated() -> Iterator[Case]:
    for kinds in ((), TYPES):
        pipe = Pipeline([(kind, (3, 2)) for kind in kinds] or COUNT)
        outside = {f"o{place}": kind for place, kind in enumerate(kinds)}
        state = pipe.body("init", outside, {"s": ("zero:output:0", L)}, const("zero", np.int64(0)))
        results = {f"y{place}": (f"o{place}", kind) for place, kind in enumerate(kinds)} or {"y": ("s", L)}
        following = pipe.body("next", {"s": L, **outside}, results)
        final = pipe.body("final", {"s": L, **outside}, {"y": ("s", L)})
        types = {f"T{name}_func_args": list(kinds) for name in ("init", "next", "finalize")}
        made = pipe.add("GeneratorDataset", *list(WIDE[:len(kinds)]) * 3, init_func=state, next_func=following,
                        finalize_func=final, **types)
        yield pipe.case("GeneratorDataset", f"{len(kinds)} arguments", pipe.add("TakeDataset", made, TWO), 2)


def _reduced() -> Iterator[Case]:
    for count in (0, 4):
        pipe = Pipeline()
        body = pipe.body("sum", {"s": L, "x": L}, {"t": ("add:z:0", L)}, node("AddV2", "add", ["s", "x"], T=L))
        made = pipe.add("ReduceDataset", pipe.numbers(count), THREE, f=body, Tstate=[L], Targuments=[])
        yield graph_case("ReduceDataset", f"the sum of {count}", pipe.nodes, Run({}, [f"{made}:0"]),
                         library=pipe.library)
    for count in (0, 1, 2):
        pipe = Pipeline()
        made = pipe.add("DatasetToSingleElement", pipe.numbers(count))
        yield graph_case("DatasetToSingleElement", f"of {count}", pipe.nodes, Run({}, [f"{made}:0"]))
    pipe = Pipeline()
    source = pipe.wide()
    made = pipe.add("DatasetToSingleElement", pipe.add("TakeDataset", source, ONE))
    yield graph_case("DatasetToSingleElement", "every type", pipe.nodes,
                     Run({}, [f"{made}:{place}" for place in range(len(TYPES))]))


def _parsed() -> Iterator[Case]:
    messages = as_array([example(f=[1.5, 2.5], n=[7], s=[b"a"]), example(f=[0.5, 4.0], s=[b"b"]),
                         example(n=[1, 2], s=[b""])])
    for calls in (1, 2, 0):
        for second in (messages[1], messages[2]):
            pipe = Pipeline()
            rows = pipe.slices(as_array([messages[0], second]))
            batches = pipe.add("BatchDatasetV2", rows, TWO, np.bool_(False), signature=[(S, (None,))])
            told = [(F, (None, 2)), (L, (None, 1)), (S, (None, 1))]
            made = pipe.add("ParseExampleDatasetV2", batches, np.int64(calls), np.zeros(2, np.float32), np.array([-1]),
                            as_array(["none"]), sparse_keys=[], dense_keys=["f", "n", "s"], sparse_types=[],
                            Tdense=[F, L, S], dense_shapes=[(2,), (1,), (1,)], signature=told, deterministic="true")
            yield pipe.case("ParseExampleDatasetV2", f"{calls} calls, {second[:9]!r}", made, 1, signature=told,
                            text=False)
