"""Cases of iterators: made, shared, named by strings, asked in one step and in many, and let go; sizes of datasets."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from runtime.dtypes import DataType
from tests.ops.case import Case, Run, called, const, function, graph_case, node
from tests.ops.pipeline import COUNT, WIDE, Pipeline
from tests.ops.values import TYPES

L, B, V = DataType.INT64, DataType.BOOL, DataType.VARIANT
NUMBERS: dict[str, Any] = {"output_types": [L], "output_shapes": [()]}
EVERY: dict[str, Any] = {"output_types": list(TYPES), "output_shapes": [(2,)] * len(TYPES)}
NAMES: dict[str, Any] = {"shared_name": "", "container": ""}


def cases() -> Iterator[Case]:
    """Yield the cases."""
    yield from _kept()
    yield from _anonymous()
    yield from _one_shot()
    yield from _strings()
    yield from _cardinality()
    yield from _deleted()


def _kept() -> Iterator[Case]:
    every = [f"next:{place}" for place in range(len(TYPES))]
    for op in ("Iterator", "IteratorV2"):
        for getter in ("IteratorGetNext", "IteratorGetNextSync"):
            pipe = Pipeline()
            source = pipe.wide()
            nodes = [*pipe.nodes, node(op, "it", **NAMES, **EVERY), node("MakeIterator", "start", [source, "it"]),
                     node(getter, "next", ["it"], **EVERY)]
            start, following = Run({}, [], ["start"]), Run({}, every)
            yield graph_case(op, f"{getter}, every type", nodes, following, start, *[following] * 4, start, following)
        other = node(op, "it", **NAMES, output_types=[B], output_shapes=[()])
        pipe = Pipeline()
        nodes = [const("z", np.int64(0)), *pipe.nodes, other,
                 node("RangeDataset", "numbers", ["z", "z", "z"], **NUMBERS),
                 node("MakeIterator", "start", ["numbers", "it"])]
        yield graph_case(op, "of other elements", nodes, Run({}, [], ["start"]))
    pipe = Pipeline()
    source = pipe.wide()
    gets = [node("IteratorGetNextAsOptional", "next", ["it"], **EVERY),
            node("OptionalHasValue", "has", ["next"]), node("OptionalGetValue", "get", ["next"], **EVERY)]
    nodes = [*pipe.nodes, node("IteratorV2", "it", **NAMES, **EVERY), node("MakeIterator", "start", [source, "it"]),
             *gets]
    full = Run({}, ["has:0", *(f"get:{place}" for place in range(len(TYPES)))])
    yield graph_case("IteratorGetNextAsOptional", "every type", nodes, Run({}, [], ["start"]), full, full, full,
                     Run({}, ["has:0"]), full)


def _anonymous() -> Iterator[Case]:
    for op in ("AnonymousIterator", "AnonymousIteratorV2", "AnonymousIteratorV3"):
        pipe = Pipeline()
        source = pipe.wide()
        nodes = [*pipe.nodes, node(op, "it", **EVERY), node("MakeIterator", "start", [source, "it"]),
                 node("IteratorGetNext", "next", ["it", "^start"], **EVERY)]
        if op == "AnonymousIteratorV2":
            nodes.append(node("DeleteIterator", "delete", ["it", "it:1", "^next"]))
        run = Run({}, [f"next:{place}" for place in range(len(TYPES))],
                  ["delete"] if op == "AnonymousIteratorV2" else [])
        yield graph_case(op, "one in each step", nodes, run, run)


def _one_shot() -> Iterator[Case]:
    for count in (2, 0):
        factory = function("factory", {}, {"d": ("range:handle:0", V)},
                           [const("zero", np.int64(0)), const("one", np.int64(1)), const("count", np.int64(count)),
                            node("RangeDataset", "range", ["zero:output:0", "count:output:0", "one:output:0"],
                                 **NUMBERS)])
        nodes = [node("OneShotIterator", "it", dataset_factory=called("factory"), **NUMBERS, **NAMES),
                 node("IteratorGetNext", "next", ["it"], **NUMBERS)]
        yield graph_case("OneShotIterator", f"of {count}", nodes, *[Run({}, ["next:0"])] * 4, library=[factory])
    body = [const(f"c{place}", value) for place, value in enumerate(WIDE)]
    factory = function("factory", {}, {"d": ("rows:handle:0", V)},
                       [*body, node("TensorSliceDataset", "rows", [f"c{place}:output:0" for place in range(len(WIDE))],
                                    Toutput_types=list(TYPES), output_shapes=[(2,)] * len(TYPES))])
    nodes = [node("OneShotIterator", "it", dataset_factory=called("factory"), **EVERY, **NAMES),
             node("IteratorGetNext", "next", ["it"], **EVERY)]
    yield graph_case("OneShotIterator", "every type", nodes,
                     *[Run({}, [f"next:{place}" for place in range(len(TYPES))])] * 4, library=[factory])


def _strings() -> Iterator[Case]:
    for op in ("IteratorFromStringHandle", "IteratorFromStringHandleV2"):
        for label, told in (("every type", EVERY), ("told nothing", {"output_types": [], "output_shapes": []}),
                            ("told wrong", NUMBERS)):
            pipe = Pipeline()
            source = pipe.wide()
            nodes = [*pipe.nodes, node("IteratorV2", "it", **NAMES, **EVERY),
                     node("MakeIterator", "start", [source, "it"]), node("IteratorToStringHandle", "text", ["it"]),
                     node(op, "again", ["text"], **told), node("IteratorGetNext", "next", ["again"], **EVERY)]
            following = Run({}, [f"next:{place}" for place in range(len(TYPES))])
            yield graph_case(op, label, nodes, Run({}, [], ["start"]), *[following] * 4)
        nodes = [node(op, "again", ["text"], **NUMBERS), node("IteratorGetNext", "next", ["again"], **NUMBERS)]
        yield graph_case(op, "no handle", [const("text", b"no handle"), *nodes], Run({}, ["next:0"]), text=False)


def _cardinality() -> Iterator[Case]:
    for count in (0, 3):
        pipe = Pipeline()
        numbers = pipe.numbers(count)
        made = {"range": numbers, "take": pipe.add("TakeDataset", numbers, np.int64(2)),
                "take all": pipe.add("TakeDataset", numbers, np.int64(-1)),
                "skip": pipe.add("SkipDataset", numbers, np.int64(2)),
                "for ever": pipe.add("RepeatDataset", numbers, np.int64(-1)),
                "twice": pipe.add("RepeatDataset", numbers, np.int64(2)),
                "shard": pipe.add("ShardDataset", numbers, np.int64(2), np.int64(1)),
                "batch": pipe.add("BatchDatasetV2", numbers, np.int64(2), np.bool_(False)),
                "whole batches": pipe.add("BatchDatasetV2", numbers, np.int64(2), np.bool_(True)),
                "both": pipe.add("ConcatenateDataset", numbers, numbers),
                "zip": pipe.add("ZipDataset", numbers, pipe.numbers(2), N=2, signature=[*COUNT, *COUNT]),
                "ahead": pipe.add("PrefetchDataset", numbers, np.int64(2)),
                "shuffle": pipe.add("ShuffleDataset", numbers, np.int64(3), np.int64(1), np.int64(1)),
                "cache": pipe.add("CacheDataset", numbers, b""),
                "told": pipe.add("AssertCardinalityDataset", numbers, np.int64(7)),
                "unique": pipe.add("UniqueDataset", numbers),
                "errors": pipe.add("IgnoreErrorsDataset", numbers),
                "random": pipe.add("RandomDataset", np.int64(1), np.int64(2))}
        sizes = {label: pipe.add("DatasetCardinality", dataset) for label, dataset in made.items()}
        for label, size in sizes.items():
            yield graph_case("DatasetCardinality", f"{label} {count}", pipe.nodes, Run({}, [f"{size}:0"]))


def _deleted() -> Iterator[Case]:
    for op in ("DummySeedGenerator", "DummyMemoryCache", "DummyIterationCounter"):
        yield graph_case(op, "", [node(op, "made")], Run({}, [], ["made"]))
