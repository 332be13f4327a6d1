"""Cases of datasets that need no function: sources, and what selects, orders, batches and wraps their elements."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from typing import Any

import numpy as np

from runtime.dtypes import DataType
from tests.ops.case import Case, as_array
from tests.ops.cases.readers import RECORDS, frames
from tests.ops.folder import case_file, case_folder
from tests.ops.pipeline import COUNT, WIDE, Pipeline
from tests.ops.values import TYPES

F, N, L, S, B, V = (DataType.FLOAT, DataType.INT32, DataType.INT64, DataType.STRING, DataType.BOOL, DataType.VARIANT)
TEXT = ((S, ()),)


def cases() -> Iterator[Case]:
    """Yield the cases."""
    yield from _tensors()
    yield from _numbers()
    yield from _files()
    yield from _csv()
    yield from _wide()
    yield from _selections()
    yield from _wrappers()
    yield from _shuffles()
    yield from _batches()
    yield from _caches()
    yield from _variants()


def _tensors() -> Iterator[Case]:
    pipe = Pipeline()
    pipe.signature = [(kind, (3, 2)) for kind in TYPES]
    yield pipe.case("TensorDataset", "every type", pipe.add("TensorDataset", *WIDE), 1)
    pipe = Pipeline()
    yield pipe.case("TensorSliceDataset", "every type", pipe.wide(), 3, passes=2)
    for label, components in {"empty": [np.zeros((0, 2), np.float32)], "scalar": [np.float32(3)],
                              "unequal": [np.zeros(2, np.float32), np.zeros(3, np.float32)]}.items():
        pipe = Pipeline([(F, None)] * len(components))
        yield pipe.case("TensorSliceDataset", label, pipe.add("TensorSliceDataset", *components), 1)


def _numbers() -> Iterator[Case]:
    for start, stop, step in ((2, 9, 3), (5, 0, -2), (3, 3, 1), (0, 5, 0), (0, -1, 1)):
        pipe = Pipeline()
        source = pipe.add("RangeDataset", np.int64(start), np.int64(stop), np.int64(step))
        yield pipe.case("RangeDataset", f"{start} to {stop} by {step}", source, 3)
    for kind in TYPES:
        pipe = Pipeline([(kind, ())])
        source = pipe.add("RangeDataset", np.int64(0), np.int64(3), np.int64(1))
        yield pipe.case("RangeDataset", kind.label, source, 3)
    for seeds in ((3, 5), (0, 1), (-1, 2)):
        pipe = Pipeline()
        yield pipe.case("RandomDataset", f"seeds {seeds}",
                        pipe.add("RandomDataset", np.int64(seeds[0]), np.int64(seeds[1])), 4, passes=2)
        for again in (False, True):
            pipe = Pipeline()
            made = pipe.add("AnonymousSeedGenerator", np.int64(seeds[0]), np.int64(seeds[1]), np.bool_(again))
            source = pipe.add("RandomDatasetV2", np.int64(seeds[0]), np.int64(seeds[1]), made,
                              rerandomize_each_iteration=again)
            yield pipe.case("RandomDatasetV2", f"seeds {seeds} again {again}", pipe.add("TakeDataset", source,
                                                                                      np.int64(3)), 3)


def _files() -> Iterator[Case]:
    lines, other = b"first\nsecond line\r\n\nlast without end", b"\n\nx\n"
    names = as_array([case_file("lines", lines), case_file("other lines", other)])
    packed = as_array([case_file("lines.gz", gzip.compress(lines, mtime=0))])
    missing = as_array([f"{case_folder()}/not there".encode()])
    for label, files, kind, size in (("plain", names, b"", 0), ("small buffer", names, b"", 2),
                                     ("gzip", packed, b"GZIP", 0), ("missing", missing, b"", 0),
                                     ("unknown", names, b"LZ4", 0)):
        pipe = Pipeline(TEXT)
        source = pipe.add("TextLineDataset", files, kind, np.int64(size))
        yield pipe.case("TextLineDataset", label, source, 7, text=label not in ("missing", "unknown"))
    records = case_file("records", frames(RECORDS))
    damaged = case_file("damaged records", frames(RECORDS)[:-9])
    packed = as_array([case_file("records.gz", gzip.compress(frames(RECORDS), mtime=0))])
    for label, files, kind, size in (("plain", as_array([records, records]), b"", 0), ("gzip", packed, b"GZIP", 256),
                                     ("damaged", as_array([damaged]), b"", 0), ("missing", missing, b"", 0)):
        pipe = Pipeline(TEXT)
        source = pipe.add("TFRecordDataset", files, kind, np.int64(size))
        yield pipe.case("TFRecordDataset", label, source, 6, text=label == "plain")
    fixed = case_file("fixed", b"head" + bytes(range(12)) + b"ft")
    numbers = [np.int64(value) for value in (4, 3, 2, 0)]
    for label, files in (("plain", as_array([fixed, fixed])), ("missing", missing)):
        pipe = Pipeline(TEXT)
        yield pipe.case("FixedLengthRecordDatasetV2", label,
                        pipe.add("FixedLengthRecordDatasetV2", files, *numbers, b""), 8, text=label == "plain")
    packed = as_array([case_file("fixed.gz", gzip.compress(b"head" + bytes(range(12)) + b"ft", mtime=0))])
    pipe = Pipeline(TEXT)
    yield pipe.case("FixedLengthRecordDatasetV2", "gzip",
                    pipe.add("FixedLengthRecordDatasetV2", packed, *numbers, b"GZIP"), 4)
    pipe = Pipeline(TEXT)
    uneven = [np.int64(value) for value in (4, 5, 2, 0)]
    yield pipe.case("FixedLengthRecordDatasetV2", "uneven",
                    pipe.add("FixedLengthRecordDatasetV2", as_array([fixed]), *uneven, b""), 1, text=False)


def _csv() -> Iterator[Case]:
    table = case_file("table.csv", b'a,b,c,d,e\n1,2.5,"x, ""y""",7,8\n-3,,z,,1e2\n4,1,w,9,nan\n')
    few = case_file("few.csv", b"1,2\n1,x,3\n")
    defaults = [np.array(value, kind) for value, kind in
                (([], np.int32), ([0.5], np.float32), ([b"none"], object), ([-1], np.int64), ([2], np.float64))]
    for op in ("CSVDataset", "CSVDatasetV2", "ExperimentalCSVDataset"):
        last = [np.zeros(0, np.int64)] if op == "CSVDatasetV2" else []
        pipe = Pipeline([(kind, ()) for kind in (N, F, S, L, DataType.DOUBLE)])
        source = pipe.add(op, as_array([table]), b"", np.int64(0), np.bool_(True), b",", np.bool_(True), b"nan",
                          np.zeros(0, np.int64), *defaults, *last)
        yield pipe.case(op, "every type", source, 3, passes=2)
        pipe = Pipeline([(N, ()), (S, ())])
        source = pipe.add(op, as_array([table]), b"", np.int64(0), np.bool_(True), b",", np.bool_(True), b"",
                          np.array([0, 2]), np.array([0], np.int32), as_array(["-"]), *last)
        yield pipe.case(op, "columns", source, 3)
        pipe = Pipeline([(N, ()), (N, ())])
        source = pipe.add(op, as_array([few]), b"", np.int64(0), np.bool_(False), b",", np.bool_(True), b"",
                          np.zeros(0, np.int64), np.array([0], np.int32), np.array([0], np.int32), *last)
        yield pipe.case(op, "a field too many", source, 2)


def _wide() -> Iterator[Case]:
    """Every op that hands elements on takes all types."""
    for op, extra in {
        "TakeDataset": [np.int64(2)], "SkipDataset": [np.int64(1)], "RepeatDataset": [np.int64(2)],
        "ShardDataset": [np.int64(2), np.int64(1)], "AssertCardinalityDataset": [np.int64(3)],
        "IgnoreErrorsDataset": [], "ExperimentalIgnoreErrorsDataset": [], "ModelDataset": [], "FinalizeDataset": [],
        "MaxIntraOpParallelismDataset": [np.int64(1)], "PrivateThreadPoolDataset": [np.int64(1)],
        "NonSerializableDataset": [], "PrefetchDataset": [np.int64(2)],
        "OptimizeDataset": [np.zeros(0, object)], "OptimizeDatasetV2": [np.zeros(0, object)] * 3,
        "RewriteDataset": [b"none"], "CacheDataset": [b""],
        "ShuffleDataset": [np.int64(2), np.int64(3), np.int64(5)],
        "ShuffleAndRepeatDataset": [np.int64(2), np.int64(3), np.int64(5), np.int64(2)],
        "OptionsDataset": [],
    }.items():
        pipe = Pipeline()
        attrs: dict[str, Any] = {"serialized_options": b""} if op == "OptionsDataset" else {}
        made = pipe.add(op, pipe.wide(), *extra, **attrs)
        yield pipe.case(op, "every type", made, 6 if "epeat" in op else 3)
    for op, extra in {"CacheDatasetV2": [b""], "ShuffleDatasetV2": [np.int64(2)],
                      "ShuffleDatasetV3": [np.int64(2), np.int64(3), np.int64(5)],
                      "ShuffleAndRepeatDatasetV2": [np.int64(2), np.int64(3), np.int64(5), np.int64(2)]}.items():
        pipe = Pipeline()
        source = pipe.wide()
        kept = pipe.add("AnonymousMemoryCache") if op == "CacheDatasetV2" else pipe.add(
            "AnonymousSeedGenerator", np.int64(3), np.int64(5), np.bool_(True))
        yield pipe.case(op, "every type", pipe.add(op, source, *extra, kept), 6 if "epeat" in op else 3)
    for op, extra in {"BatchDatasetV2": [np.int64(2), np.bool_(False)],
                      "ParallelBatchDataset": [np.int64(2), np.int64(2), np.bool_(False)]}.items():
        pipe = Pipeline()
        source = pipe.wide()
        pipe.signature = [(kind, (None, 2)) for kind in TYPES]
        yield pipe.case(op, "every type", pipe.add(op, source, *extra), 2)
    pipe = Pipeline()
    rows = pipe.add("BatchDatasetV2", pipe.wide(), np.int64(2), np.bool_(False),
                    signature=[(kind, (None, 2)) for kind in TYPES])
    yield pipe.case("UnbatchDataset", "every type", pipe.add("UnbatchDataset", rows), 3)
    pipe = Pipeline()
    source = pipe.wide()
    pipe.signature = [(kind, (None, 3)) for kind in TYPES]
    paddings = [np.array(b"p" if value.dtype == object else 1, value.dtype) for value in WIDE]
    made = pipe.add("PaddedBatchDatasetV2", source, np.int64(2), *[np.array([3])] * len(WIDE), *paddings,
                    np.bool_(False), N=len(WIDE))
    yield pipe.case("PaddedBatchDatasetV2", "every type", made, 2)
    pipe = Pipeline()
    first, second = pipe.wide(), pipe.wide()
    yield pipe.case("ConcatenateDataset", "every type", pipe.add("ConcatenateDataset", first, second), 6)
    made = pipe.add("DirectedInterleaveDataset", pipe.numbers(2), first, second, N=2)
    yield pipe.case("DirectedInterleaveDataset", "every type", made, 2)
    pipe.signature = [*pipe.signature, *COUNT]
    yield pipe.case("ZipDataset", "every type", pipe.add("ZipDataset", first, pipe.numbers(2), N=2), 2)


def _of_numbers(op: str, label: str, count: int, *extra: Any, source: int = 5, passes: int = 1, **attrs: Any) -> Case:
    """Return the case of an op over numbers."""
    pipe = Pipeline()
    return pipe.case(op, label, pipe.add(op, pipe.numbers(source), *extra, **attrs), count, passes=passes)


def _selections() -> Iterator[Case]:
    for count in (0, 2, -1, 9):
        yield _of_numbers("TakeDataset", str(count), 5, np.int64(count))
        yield _of_numbers("SkipDataset", str(count), 5, np.int64(count))
    for count in (0, 1, 3, -1):
        yield _of_numbers("RepeatDataset", str(count), 5, np.int64(count), source=2)
    yield _of_numbers("RepeatDataset", "nothing, for ever", 1, np.int64(-1), source=0)
    for shards, index, needed in ((2, 1, False), (9, 7, False), (9, 7, True), (9, 2, True), (3, 1, True), (3, 2, True),
                                  (0, 0, False), (2, 3, False)):
        yield _of_numbers("ShardDataset", f"{index} of {shards} {needed}", 3, np.int64(shards), np.int64(index),
                          require_non_empty=needed)
    for cardinality in (3, 7, -2):
        yield _of_numbers("AssertCardinalityDataset", str(cardinality), 5, np.int64(cardinality))
    for chosen in ([1, 0, 0, 1, 0, 1, 1, 0], [0, 2], [-1]):
        for stop in (False, True):
            pipe = Pipeline()
            sources = [pipe.slices(np.array(chosen)), pipe.numbers(3), pipe.numbers(3, 10)]
            made = pipe.add("DirectedInterleaveDataset", *sources, N=2, stop_on_empty_dataset=stop)
            yield pipe.case("DirectedInterleaveDataset", f"{chosen} {stop}", made, 7)
    for label, column in {"texts": as_array(["a", "b", "a", "c", "b"]), "longs": np.array([3, 3, 1, 3, 1]),
                          "ints": np.array([3, 3, 1], np.int32), "floats": np.array([1, 1], np.float32)}.items():
        pipe = Pipeline()
        yield pipe.case("UniqueDataset", label, pipe.add("UniqueDataset", pipe.slices(column)), 3)
    pipe = Pipeline()
    records = pipe.add("TFRecordDataset", as_array([case_file("cut", frames(RECORDS)[:-9])]), b"", np.int64(0))
    pipe.signature = TEXT
    yield pipe.case("IgnoreErrorsDataset", "a record cut off", pipe.add("IgnoreErrorsDataset", records), 3)


def _wrappers() -> Iterator[Case]:
    for algorithm in (0, 1):
        yield _of_numbers("ModelDataset", f"algorithm {algorithm}", 5, algorithm=algorithm)
    for threads in (0, -1, 2):
        yield _of_numbers("PrivateThreadPoolDataset", str(threads), 5, np.int64(threads))
        yield _of_numbers("MaxIntraOpParallelismDataset", str(threads), 5, np.int64(threads))
    for size in (-1, -2, 0, 3):
        yield _of_numbers("PrefetchDataset", str(size), 5, np.int64(size))


def _shuffles() -> Iterator[Case]:
    three, five, two = np.int64(3), np.int64(5), np.int64(2)
    for again in (False, True):
        yield _of_numbers("ShuffleDataset", f"again {again}", 8, three, five, two, source=8, passes=2,
                          reshuffle_each_iteration=again)
        yield _of_numbers("ShuffleAndRepeatDataset", f"again {again}", 16, three, five, two, two, source=8, passes=2,
                          reshuffle_each_iteration=again)
        for label, generator in (("a generator", "AnonymousSeedGenerator"), ("none", "DummySeedGenerator")):
            for op, extra in (("ShuffleDatasetV3", []), ("ShuffleAndRepeatDatasetV2", [two])):
                pipe = Pipeline()
                seeds = [five, two, np.bool_(again)] if generator.startswith("Anonymous") else []
                made = pipe.add(generator, *seeds)
                shuffled = pipe.add(op, pipe.numbers(8), three, five, two, *extra, made,
                                    reshuffle_each_iteration=again)
                yield pipe.case(op, f"again {again}, {label}", shuffled, 16 if extra else 8,
                                text=generator.startswith("Anonymous"))
        pipe = Pipeline()
        made = pipe.add("AnonymousSeedGenerator", five, two, np.bool_(again))
        shuffled = pipe.add("ShuffleDatasetV2", pipe.numbers(8), three, made)
        yield pipe.case("ShuffleDatasetV2", f"again {again}", shuffled, 8)
    for size in (0, -1, 1, 20):
        yield _of_numbers("ShuffleDataset", f"buffer {size}", 8, np.int64(size), five, two, source=8)
    yield _of_numbers("ShuffleAndRepeatDataset", "count 0", 2, three, five, two, np.int64(0))


def _batches() -> Iterator[Case]:
    for size in (1, 2, 7, 0, -1):
        pipe = Pipeline([(L, (None,))])
        for drop in (False, True):
            made = pipe.add("BatchDatasetV2", pipe.numbers(5), np.int64(size), np.bool_(drop))
            yield pipe.case("BatchDatasetV2", f"{size} {drop}", made, 3)
            made = pipe.add("ParallelBatchDataset", pipe.numbers(5), np.int64(size), np.int64(2), np.bool_(drop))
            yield pipe.case("ParallelBatchDataset", f"{size} {drop}", made, 3)
    for label, shape, value in (("longer", [4], -1), ("as long as they are", [-1], 0), ("too short", [1], 0),
                                ("negative", [-2], 0), ("of another rank", [2, 2], 0)):
        pipe = Pipeline()
        source = pipe.slices(np.arange(6).reshape(3, 2))
        pipe.signature = [(L, None)]
        for drop in (False, True):
            made = pipe.add("PaddedBatchDatasetV2", source, np.int64(2), np.array(shape), np.int64(value),
                            np.bool_(drop), N=1)
            yield pipe.case("PaddedBatchDatasetV2", f"{label} {drop}", made, 2)


def _caches() -> Iterator[Case]:
    for place in (b"", f"{case_folder()}/cached".encode()):
        yield _of_numbers("CacheDataset", "in a file" if place else "in memory", 3, place, source=3, passes=2)
    pipe = Pipeline()
    memory = pipe.add("AnonymousMemoryCache")
    yield pipe.case("CacheDatasetV2", "in memory", pipe.add("CacheDatasetV2", pipe.numbers(3), b"", memory), 3)
    pipe = Pipeline()
    dummy = pipe.add("DummyMemoryCache")
    made = pipe.add("CacheDatasetV2", pipe.numbers(3), f"{case_folder()}/cached too".encode(), dummy)
    yield pipe.case("CacheDatasetV2", "in a file", made, 3, passes=2)


def _variants() -> Iterator[Case]:
    pipe = Pipeline()
    wrapped = pipe.add("WrapDatasetVariant", pipe.numbers(3))
    unwrapped = pipe.add("UnwrapDatasetVariant", wrapped)
    yield pipe.case("WrapDatasetVariant", "and back", unwrapped, 3)
    yield pipe.case("UnwrapDatasetVariant", "not wrapped", pipe.add("UnwrapDatasetVariant", pipe.numbers(3)), 1)
    yield pipe.case("MakeIterator", "wrapped", pipe.add("WrapDatasetVariant", pipe.numbers(3)), 1)

