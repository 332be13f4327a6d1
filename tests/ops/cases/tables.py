"""Cases of lookup tables: histories of one table in a session."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from runtime.dtypes import DataType, from_numpy, to_numpy
from tests.ops.case import Case, Run, as_array, graph_case, node
from tests.ops.cases.variables import fed, feeds
from tests.ops.folder import case_file

I32, L, F, D, S, B = (DataType.INT32, DataType.INT64, DataType.FLOAT, DataType.DOUBLE, DataType.STRING, DataType.BOOL)
STATIC = ((I32, D), (I32, F), (I32, I32), (I32, S), (L, D), (L, F), (L, I32), (L, L), (L, S), (S, B), (S, D), (S, F),
          (S, I32), (S, L), (S, S))
MUTABLE = ((I32, D), (I32, F), (I32, I32), (L, D), (L, F), (L, I32), (L, L), (L, S), (S, B), (S, D), (S, F), (S, I32),
           (S, L))
DENSE = ((I32, D), (I32, F), (I32, I32), (L, B), (L, D), (L, F), (L, I32), (L, L), (S, B), (S, D), (S, F), (S, I32),
         (S, L))


def cases() -> Iterator[Case]:
    """Yield the cases."""
    yield from _static()
    yield from _static_rules()
    yield from _mutable()
    yield from _tensors()
    yield from _dense()
    yield from _anonymous_dense()
    yield from _dense_rules()
    yield from _files()
    yield from _sharing()


def some(kind: DataType, *numbers: int) -> np.ndarray:
    """Return keys or values of a type that stand for numbers."""
    if kind is S:
        texts = [f"key {number}" * (1 + number % 3) for number in numbers]
        return as_array(texts) if texts else np.zeros(0, object)
    return np.array(numbers).astype(to_numpy(kind))


def one(kind: DataType, number: int) -> np.ndarray:
    """Return one key or value as a scalar."""
    return some(kind, number).reshape(())


class Graph:
    """A table and the ops on it; every method adds a run."""

    def __init__(self, op: str, key: DataType, value: DataType, inputs: Sequence[str] = (), **attrs: Any) -> None:
        self.op, self.key, self.value = op, key, value
        self.nodes: list[Any] = [node(op, "t", inputs, key_dtype=key, value_dtype=value, shared_name="shared", **attrs),
                                 node("LookupTableSizeV2", "size", ["t"]),
                                 node("LookupTableExportV2", "export", ["t"], Tkeys=key, Tvalues=value)]
        self.runs: list[Run] = []
        self.always: dict[str, np.ndarray] = {}

    def _call(self, op: str, fetch: bool, arrays: dict[str, np.ndarray], **attrs: Any) -> None:
        number = len(self.runs)
        inputs = {f"{name}{number}": value for name, value in arrays.items()}
        self.nodes += [*fed(**inputs), node(op, f"run{number}", ["t", *inputs], **attrs)]
        outputs = [f"run{number}:0"] if fetch else []
        self.runs.append(Run({**self.always, **feeds(**inputs)}, outputs, [] if fetch else [f"run{number}"]))

    def entries(self, op: str, keys: np.ndarray, values: np.ndarray) -> None:
        """Give keys and values to an op."""
        names = ("Tkey", "Tval") if op.startswith("Initialize") else ("Tin", "Tout")
        self._call(op, False, {"keys": keys, "values": values},
                   **dict(zip(names, (from_numpy(keys.dtype), from_numpy(values.dtype)))))

    def find(self, keys: np.ndarray, default: np.ndarray) -> None:
        self._call("LookupTableFindV2", True, {"keys": keys, "default": default}, Tin=from_numpy(keys.dtype),
                   Tout=from_numpy(default.dtype))

    def remove(self, keys: np.ndarray) -> None:
        self._call("LookupTableRemoveV2", False, {"keys": keys}, Tin=from_numpy(keys.dtype))

    def text_file(self, content: bytes, name: str, **attrs: Any) -> None:
        path = np.array(case_file(name, content), object)
        self._call("InitializeTableFromTextFileV2", False, {"file": path},
                   **{"key_index": -2, "value_index": -1, **attrs})

    def size(self) -> None:
        self.runs.append(Run(self.always, ["size:0"]))

    def export(self) -> None:
        self.runs.append(Run(self.always, ["export:0", "export:1"]))

    def case(self, name: str, op: str = "", **options: Any) -> Case:
        return graph_case(op or self.op, name, self.nodes, *self.runs, **options)


def unordered(ours: list[np.ndarray], theirs: list[np.ndarray]) -> str:
    """Compare what a table holds, in any order; what is no pair of keys and values as it is."""
    pairs = [sorted(zip(got[0].tolist(), map(repr, got[1].tolist()))) if len(got) == 2
             else [item.tolist() for item in got] for got in (ours, theirs)]
    return "" if pairs[0] == pairs[1] else f"{pairs[0]} differ from {pairs[1]}"


def older(case: Case) -> Case:
    """Return a case with the ops that hand on a table as a reference to two strings."""
    nodes = []
    for newer in case.nodes:
        changed = type(newer).FromString(newer.SerializeToString())
        if "Table" in changed.op:
            changed.op = changed.op.removesuffix("V2")
        nodes.append(changed)
    op = case.op.removesuffix("V2")
    return replace(case, op=op, name=case.name.replace(case.op, op), nodes=nodes)


def _static() -> Iterator[Case]:
    for key, value in STATIC:
        graph = Graph("HashTableV2", key, value)
        graph.find(some(key, 1), one(value, 0))
        graph.size()
        graph.entries("InitializeTableV2", some(key, 3, 1, 4, 5, 1), some(value, 30, 10, 40, 50, 10))
        graph.size()
        graph.find(some(key, 1, 2, 3, 4, 5, 6).reshape(2, 3), one(value, 7))
        graph.find(some(key), one(value, 7))
        graph.find(one(key, 4), one(value, 7))
        graph.export()
        case = graph.case(f"{key.label}->{value.label}", compare=unordered)
        yield case
        if value is F:
            yield older(case)


def _static_rules() -> Iterator[Case]:
    graph = Graph("HashTableV2", L, L)
    graph.export()
    graph.entries("LookupTableInsertV2", some(L, 1), some(L, 2))
    graph.remove(some(L, 1))
    graph.entries("InitializeTableV2", some(L), some(L))
    graph.entries("InitializeTableV2", some(L, 1, 2), some(L, 1))
    graph.entries("InitializeTableV2", one(L, 1), some(L, 1))
    graph.entries("InitializeTableV2", some(L, 1), one(L, 1))
    graph.entries("InitializeTableV2", some(I32, 1), some(L, 1))
    graph.entries("InitializeTableV2", some(L, 1), some(F, 1))
    graph.entries("LookupTableImportV2", some(L, 1), some(L, 1, 2))
    graph.entries("LookupTableImportV2", some(L), some(L))
    graph.find(some(I32, 1), one(L, 1))
    graph.find(some(L, 1), one(F, 1))
    graph.entries("LookupTableImportV2", some(L, 1, 2).reshape(2, 1), some(L, 3, 4).reshape(2, 1))
    graph.entries("InitializeTableV2", some(L, 8, 9), some(L, 1, 1))
    graph.entries("InitializeTableV2", some(L, 8), some(L, 1))
    graph.entries("InitializeTableV2", some(L, 1, 2, 1), some(L, 3, 4, 3))
    graph.find(some(L, 1, 2, 8), one(L, -1))
    graph.find(some(L, 1, 2, 8), some(L, -1, -2))
    graph.find(some(L, 7, 2, 8), some(L, -1, -2, -3))
    graph.size()
    yield graph.case("rules")
    for key, value in ((S, F), (L, S), (S, D), (I32, I32), (S, B)):
        graph = Graph("HashTableV2", key, value)
        graph.entries("InitializeTableV2", some(key, 3, 1, 3), np.array([1.25, 2, 1e-7]).astype(to_numpy(value))
                      if value is not S else some(value, 1, 2, 3))
        yield graph.case(f"two values for a key, {key.label}->{value.label}", "InitializeTableV2")


def _mutable() -> Iterator[Case]:
    for key, value in MUTABLE:
        graph = Graph("MutableHashTableV2", key, value)
        graph.find(some(key, 1), one(value, 0))
        graph.entries("LookupTableInsertV2", some(key, 3, 1, 4, 1), some(value, 30, 10, 40, 11))
        graph.size()
        graph.find(some(key, 1, 2, 3, 4).reshape(2, 2), one(value, 7))
        graph.find(some(key, 1, 2, 3, 4), some(value, 5, 6, 7, 8))
        graph.remove(some(key, 9, 1, 1))
        graph.entries("LookupTableInsertV2", some(key, 3, 7, 8).reshape(3, 1), some(value, 1, 0, 1).reshape(3, 1))
        graph.export()
        graph.remove(some(key))
        graph.entries("LookupTableInsertV2", some(key), some(value))
        graph.entries("LookupTableImportV2", some(key, 5, 6), some(value, 50, 60))
        graph.export()
        graph.find(some(key, 5, 3), one(value, 7))
        graph.entries("LookupTableImportV2", some(key), some(value))
        graph.export()
        yield graph.case(f"{key.label}->{value.label}", compare=unordered)
    graph = Graph("MutableHashTableV2", S, L)
    graph.entries("LookupTableInsertV2", some(S, 1, 2), some(L, 1))
    graph.entries("LookupTableInsertV2", some(L, 1), some(L, 1))
    graph.remove(some(L, 1))
    graph.find(some(S, 1, 2), some(L, 1, 2, 3))
    graph.entries("LookupTableImportV2", some(S, 1, 2), some(L, 1))
    graph.entries("LookupTableImportV2", some(S, 1), some(F, 1))
    graph.entries("InitializeTableV2", some(S, 1), some(L, 1))
    yield graph.case("rules")
    graph = Graph("MutableHashTableV2", L, S)
    graph.entries("LookupTableInsertV2", some(L, 1, 2), some(S, 1, 2))
    graph.find(some(L, 2, 3), one(S, 7))
    graph.entries("LookupTableImportV2", some(L, 1), some(S, 3))
    graph.size()
    yield older(graph.case("references"))




def _tensors() -> Iterator[Case]:
    rows = np.arange(12).reshape(4, 3)
    for key, value in MUTABLE:
        values = rows.astype(to_numpy(value)) if value is not S else some(S, *range(12)).reshape(4, 3)
        graph = Graph("MutableHashTableOfTensorsV2", key, value, value_shape=(3,))
        graph.entries("LookupTableInsertV2", some(key, 3, 1, 4, 1), values)
        graph.find(some(key, 1, 2, 3, 4).reshape(2, 2), values[0])
        graph.find(some(key, 1, 2, 3, 5), values)
        graph.remove(some(key, 1))
        graph.find(one(key, 1), values[2])
        graph.entries("LookupTableImportV2", some(key, 5, 6), values[:2])
        graph.size()
        graph.export()
        yield graph.case(f"{key.label}->{value.label}", compare=unordered)
    graph = Graph("MutableHashTableOfTensorsV2", L, F, value_shape=(3,))
    graph.entries("LookupTableInsertV2", some(L, 1, 2), np.ones((2, 3), np.float32))
    graph.find(some(L, 2, 3), np.zeros(3, np.float32))
    graph.size()
    yield older(graph.case("references"))
    graph = Graph("MutableHashTableOfTensorsV2", L, F, value_shape=(3,))
    graph.find(some(L, 1, 2), np.zeros(2, np.float32))
    graph.find(some(L, 1, 2), one(F, 0))
    graph.entries("LookupTableInsertV2", some(L, 1, 2), np.zeros(2, np.float32))
    graph.entries("LookupTableInsertV2", some(L, 1, 2), np.zeros((2, 2), np.float32))
    graph.entries("LookupTableImportV2", some(L, 1, 2), np.zeros((3, 3), np.float32))
    yield graph.case("rules")
    for shape in ((), (2, 2)):
        graph = Graph("MutableHashTableOfTensorsV2", L, F, value_shape=shape)
        graph.size()
        yield graph.case(f"value shape {shape}")


def dense(key: DataType, value: DataType, empty: np.ndarray, deleted: np.ndarray, **attrs: Any) -> Graph:
    """Return the graph of a dense table."""
    graph = Graph("MutableDenseHashTableV2", key, value, ["empty", "deleted"], **attrs)
    graph.nodes = [*fed(empty=empty, deleted=deleted), *graph.nodes]
    graph.always = feeds(empty=empty, deleted=deleted)
    return graph


def buckets(empty: np.ndarray, deleted: np.ndarray) -> Any:
    """Return what compares exported buckets: all keys, and the values that belong to any."""
    marks = [empty.reshape(-1).tolist(), deleted.reshape(-1).tolist()]

    def compare(ours: list[np.ndarray], theirs: list[np.ndarray]) -> str:
        if len(ours) != 2:
            got, wanted = ([item.tolist() for item in items] for items in (ours, theirs))
            return "" if got == wanted else f"{got} differ from {wanted}"
        seen = []
        for keys, values in (ours, theirs):
            listed = keys.tolist()
            seen.append([listed, [row for key, row in zip(listed, values.tolist()) if key not in marks]])
        return "" if seen[0] == seen[1] else f"{seen[0]} differ from {seen[1]}"

    return compare


def _dense() -> Iterator[Case]:
    for key, value in DENSE:
        empty, deleted = one(key, 0), one(key, -1)
        graph = dense(key, value, empty, deleted, initial_num_buckets=4)
        graph.find(some(key, 1), one(value, 0))
        graph.entries("LookupTableInsertV2", some(key, 3, 19, 4), some(value, 30, 10, 40))
        graph.export()
        graph.entries("LookupTableInsertV2", some(key, *range(20, 33)), some(value, *range(13)))
        graph.export()
        graph.remove(some(key, 3, 21, 99))
        graph.export()
        graph.entries("LookupTableInsertV2", some(key, 37, 53, 5), some(value, 1, 2, 3))
        graph.export()
        graph.size()
        graph.find(some(key, 1, 19, 53, 32).reshape(2, 2), one(value, 7))
        graph.find(some(key, 1, 19, 53, 32), one(value, 7))
        graph.find(some(key, 1, 19, 53, 32), some(value, 5, 6, 7, 8))
        yield graph.case(f"{key.label}->{value.label}", compare=buckets(empty, deleted))
    empty, deleted = some(L, 0, 0), some(L, -1, 0)
    keys = np.array([[number * 7919 % 13 - 6, number] for number in range(1, 12)])
    values = np.arange(22, dtype=np.float32).reshape(11, 2)
    graph = dense(L, F, empty, deleted, initial_num_buckets=8, value_shape=(2,), max_load_factor=0.6)
    graph.entries("LookupTableInsertV2", keys, values)
    graph.export()
    graph.remove(keys[3:5])
    graph.find(keys, values[0])
    graph.find(keys[:2], values[:2])
    graph.export()
    graph.find(keys[:, 0], values[0])
    graph.find(np.zeros((2, 3), np.int64), values[0])
    yield graph.case("keys of two numbers", compare=buckets(empty, deleted))
    empty, deleted = one(L, 0), one(L, -1)
    graph = dense(L, L, empty, deleted, initial_num_buckets=16)
    layout = np.array([0, 1, 0, 3, 0, -1, 6, 0])
    graph.entries("LookupTableImportV2", layout, layout * 10)
    graph.entries("LookupTableImportV2", layout[:, None], layout[:, None] * 10)
    graph.size()
    graph.find(np.array([1, 3, 6, 5, 2]), one(L, 7))
    graph.entries("LookupTableInsertV2", np.array([9, 2]), np.array([90, 20]))
    graph.export()
    yield graph.case("import", compare=buckets(empty, deleted))


def _anonymous_dense() -> Iterator[Case]:
    for key, value in DENSE:
        inputs = {"empty": one(key, 0), "deleted": one(key, -1), "keys": some(key, 3, 19, 4),
                  "values": some(value, 30, 10, 40), "asked": some(key, 19, 1, 3), "default": one(value, 7)}
        nodes = [*fed(**inputs), node("AnonymousMutableDenseHashTable", "t", ["empty", "deleted"], key_dtype=key,
                                      value_dtype=value, initial_num_buckets=4),
                 node("LookupTableInsertV2", "put", ["t", "keys", "values"], Tin=key, Tout=value),
                 node("LookupTableFindV2", "find", ["t", "asked", "default", "^put"], Tin=key, Tout=value),
                 node("LookupTableSizeV2", "size", ["t", "^put"])]
        yield graph_case("AnonymousMutableDenseHashTable", f"{key.label}->{value.label}", nodes,
                         Run(feeds(**inputs), ["find:0", "size:0"]))


def _dense_rules() -> Iterator[Case]:
    none, first = one(L, 0), one(L, 1)
    wrong: dict[str, Any] = {
        "same keys": ((none, none), {}), "shapes": ((none, some(L, 1)), {}),
        "matrix": ((some(L, 1).reshape(1, 1), some(L, 2).reshape(1, 1)), {}),
        "values": ((none, first), {"value_shape": (2, 2)}), "few": ((none, first), {"initial_num_buckets": 2}),
        "odd": ((none, first), {"initial_num_buckets": 12}), "load": ((none, first), {"max_load_factor": 1.5}),
        "no load": ((none, first), {"max_load_factor": 0.0})}
    for name, ((empty, deleted), attrs) in wrong.items():
        graph = dense(L, F, empty, deleted, **attrs)
        graph.size()
        yield graph.case(name)
    graph = dense(L, L, none, one(L, -1), initial_num_buckets=8)
    graph.entries("LookupTableInsertV2", np.array([1, 0, 2]), np.array([1, 2, 3]))
    graph.size()
    graph.find(np.array([1, 2]), one(L, 7))
    graph.entries("LookupTableInsertV2", np.array([-1]), np.array([1]))
    graph.find(np.array([1, 0]), one(L, 7))
    graph.find(np.array([-1]), one(L, 7))
    graph.remove(np.array([1, 0]))
    graph.remove(np.array([-1]))
    graph.size()
    graph.entries("LookupTableInsertV2", np.array([1, 2]), np.array([1]))
    yield graph.case("marks as keys")


def _files() -> Iterator[Case]:
    words = b"alpha\nbeta\r\ngamma delta\nlast"
    graph = Graph("HashTableV2", S, L)
    graph.text_file(words, "words")
    graph.size()
    graph.find(as_array(["alpha", "beta", "gamma delta", "last", "beta\r"]), one(L, -1))
    graph.text_file(b"other\n", "other")
    graph.size()
    yield graph.case("words", "InitializeTableFromTextFileV2")
    yield older(graph.case("words", "InitializeTableFromTextFileV2"))
    table = b"10\tten\t1.5\n20\ttwenty\t2.5\n-30\tthirty\tnan\n"
    for key, value, attrs in ((L, S, {"key_index": 0, "value_index": 1}), (S, F, {"key_index": 1, "value_index": 2}),
                              (S, D, {"key_index": 1, "value_index": 2}), (I32, S, {"key_index": 0, "value_index": -2}),
                              (L, S, {"key_index": -1, "value_index": 1, "offset": 5}),
                              (S, L, {"key_index": 1, "value_index": -1, "offset": 7}),
                              (S, I32, {"key_index": 1, "value_index": 0, "vocab_size": 2}),
                              (S, L, {"key_index": 1, "value_index": 0, "vocab_size": 3})):
        graph = Graph("HashTableV2", key, value)
        graph.text_file(table, "table", **attrs)
        graph.export()
        yield graph.case(f"columns {key.label}->{value.label} {attrs}", "InitializeTableFromTextFileV2",
                         compare=unordered)
    wrong: dict[str, tuple[DataType, DataType, bytes, dict[str, Any]]] = {
        "line number of int32": (I32, S, table, {"key_index": -1, "value_index": 1}),
        "line number to int32": (S, I32, table, {"key_index": 1, "value_index": -1}),
        "float to whole line": (S, F, table, {"key_index": 1, "value_index": -2}),
        "int to whole line": (S, L, table, {"key_index": 1, "value_index": -2}),
        "bool": (S, B, table, {"key_index": 1, "value_index": 0}),
        "no number": (S, L, b"a\t1\nb\tx1\n", {"key_index": 0, "value_index": 1}),
        "no int32": (S, I32, b"a\t1\nb\t3000000000\n", {"key_index": 0, "value_index": 1}),
        "no float": (S, F, b"a\t1\nb\t\n", {"key_index": 0, "value_index": 1}),
        "columns": (S, L, b"a\t1\nb\n", {"key_index": 0, "value_index": 1}),
        "empty line": (S, L, b"a\n\nb\n", {}),
        "empty file": (S, L, b"", {}),
        "too few lines": (S, L, b"a\nb\n", {"vocab_size": 3}),
        "no lines wanted": (S, L, b"a\nb\n", {"vocab_size": 0}),
        "delimiter": (S, L, b"a\nb\n", {"delimiter": ", "}),
        "no delimiter": (S, L, b"a\nb\n", {"delimiter": ""}),
        "twice": (S, L, b"a 1\nb 2\na 3\n", {"key_index": 0, "value_index": 1, "delimiter": " "}),
    }
    for name, (key, value, content, attrs) in wrong.items():
        graph = Graph("HashTableV2", key, value)
        graph.text_file(content, f"wrong {name}", **attrs)
        graph.size()
        yield graph.case(name, "InitializeTableFromTextFileV2")
    graph = Graph("HashTableV2", S, L)
    graph._call("InitializeTableFromTextFileV2", False, {"file": np.array(b"/nowhere/at all", object)}, key_index=-2,
                value_index=-1)
    graph._call("InitializeTableFromTextFileV2", False, {"file": np.array(b"", object)}, key_index=-2, value_index=-1)
    graph._call("InitializeTableFromTextFileV2", False, {"file": as_array(["a", "b"])}, key_index=-2, value_index=-1)
    yield graph.case("no file", "InitializeTableFromTextFileV2")
    graph = Graph("MutableHashTableV2", S, L)
    graph.text_file(words, "words")
    yield graph.case("a mutable table", "InitializeTableFromTextFileV2")


def _sharing() -> Iterator[Case]:
    graph = Graph("MutableHashTableV2", L, L)
    graph.nodes.append(node("DestroyResourceOp", "destroy", ["t"]))
    graph.entries("LookupTableInsertV2", some(L, 1, 2), some(L, 3, 4))
    graph.runs.append(Run({}, [], ["destroy"]))
    graph.size()
    graph.find(some(L, 1), one(L, 0))
    yield graph.case("destroyed")
    kinds = {"key": (I32, I32), "value": (L, I32)}
    for name, (key, value) in kinds.items():
        nodes = [node("MutableHashTableV2", "a", key_dtype=L, value_dtype=L, shared_name="s"),
                 node("LookupTableSizeV2", "first", ["a"]),
                 node("MutableHashTableV2", "b", key_dtype=key, value_dtype=value, shared_name="s"),
                 node("LookupTableSizeV2", "second", ["b"])]
        yield graph_case("MutableHashTableV2", f"shared, other {name}", nodes, Run({}, ["first:0"]),
                         Run({}, ["second:0"]))
    nodes = [node("MutableHashTableV2", "a", key_dtype=L, value_dtype=L, use_node_name_sharing=True),
             node("MutableHashTableV2", "b", key_dtype=L, value_dtype=L, shared_name="a"),
             *fed(keys=some(L, 1, 2), values=some(L, 3, 4)),
             node("LookupTableInsertV2", "insert", ["a", "keys", "values"], Tin=L, Tout=L),
             node("LookupTableSizeV2", "size", ["b"])]
    fed_values = feeds(keys=some(L, 1, 2), values=some(L, 3, 4))
    yield graph_case("MutableHashTableV2", "by the node's name", nodes, Run(fed_values, [], ["insert"]),
                     Run({}, ["size:0"]))
    nodes = [node("AnonymousHashTable", "a", key_dtype=L, value_dtype=L), *fed(keys=some(L, 1, 2), values=some(L, 3, 4),
                                                                              default=one(L, 0)),
             node("InitializeTableV2", "init", ["a", "keys", "values"], Tkey=L, Tval=L),
             node("LookupTableFindV2", "find", ["a", "keys", "default", "^init"], Tin=L, Tout=L),
             node("LookupTableSizeV2", "size", ["a", "^init"])]
    fed_values = feeds(keys=some(L, 1, 2), values=some(L, 3, 4), default=one(L, 0))
    yield graph_case("AnonymousHashTable", "two steps", nodes, *[Run(fed_values, ["find:0", "size:0"])] * 2)
    for op, attrs in (("AnonymousMutableHashTable", {}), ("AnonymousMutableHashTableOfTensors", {"value_shape": (1,)})):
        values = some(L, 3, 4).reshape(2, *attrs.get("value_shape", ()))
        nodes = [node(op, "a", key_dtype=L, value_dtype=L, **attrs), *fed(keys=some(L, 1, 2), values=values),
                 node("LookupTableInsertV2", "insert", ["a", "keys", "values"], Tin=L, Tout=L),
                 node("LookupTableSizeV2", "size", ["a", "^insert"])]
        yield graph_case(op, "", nodes, *[Run(feeds(keys=some(L, 1, 2), values=values), ["size:0"])] * 2)
