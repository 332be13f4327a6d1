"""Cases of the older checkpoint format; `tests/checkpoint/test_slice_files.py` swaps files with TensorFlow."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from runtime.dtypes import DataType, from_numpy
from tests.ops.case import Case, Run, as_array, graph_case, node
from tests.ops.cases.variables import fed, feeds
from tests.ops.folder import case_folder

KINDS = (np.float32, np.float64, np.int32, np.int64, np.int16, np.int8, np.uint8, np.uint16, np.bool_, np.complex64,
         np.complex128, np.float16, object)
ROWS = np.arange(12, dtype=np.float32).reshape(3, 4)


def cases() -> Iterator[Case]:
    """Yield the cases."""
    for kind in KINDS:
        value = as_array([["a", ""], ["ccc", "d"]]) if kind is object else np.array([[0, 1], [2, 3]]).astype(kind)
        yield _round_trip(f"{kind.__name__}", value)
    yield _round_trip("scalar and empty", np.array(2.5), np.zeros((0, 3), np.float32), ROWS)
    yield from _slices()
    yield from _rules()


def _save(path: str, names: Sequence[str], arrays: Sequence[np.ndarray], specs: Sequence[str] | None = None,
          label: str = "save") -> tuple[list[Any], dict[str, np.ndarray]]:
    listed = as_array(list(names)) if names else np.zeros(0, object)
    inputs = {f"{label}_file": as_array(path), f"{label}_names": listed}
    if specs is not None:
        inputs[f"{label}_specs"] = as_array(list(specs))
    inputs |= {f"{label}_{number}": array for number, array in enumerate(arrays)}
    op = "Save" if specs is None else "SaveSlices"
    return [*fed(**inputs), node(op, label, list(inputs), T=[from_numpy(array.dtype) for array in arrays])], feeds(
        **inputs)


def _restore(path: str, name: str, kind: DataType, label: str,
             spec: str | None = None) -> tuple[list[Any], dict[str, np.ndarray]]:
    inputs = {f"{label}_pattern": as_array(path), f"{label}_name": as_array(name)}
    if spec is not None:
        inputs[f"{label}_spec"] = as_array(spec)
    op = "Restore" if spec is None else "RestoreSlice"
    return [*fed(**inputs), node(op, label, list(inputs), dt=kind)], feeds(**inputs)


def _round_trip(name: str, *arrays: np.ndarray) -> Case:
    path = f"{case_folder()}/old {name}"
    names = [f"tensor/{number}" for number in range(len(arrays))]
    nodes, put = _save(path, names, arrays)
    runs = [Run(put, [], ["save"])]
    for number, array in enumerate(arrays):
        more, get = _restore(path, names[number], from_numpy(array.dtype), f"get{number}")
        nodes += more
        runs.append(Run(get, [f"get{number}:0"]))
    return graph_case("Restore", name, nodes, *runs)


def _slices() -> Iterator[Case]:
    path = f"{case_folder()}/old slices"
    parts = [ROWS[:2], ROWS[2:], ROWS[:, 1:3]]
    nodes, put = _save(path, ["a", "a", "b"], parts, ["3 4 0,2:-", "3 4 2,1:-", "3 4 -:1,2"])
    runs = [Run(put, [], ["save"])]
    for number, (name, spec) in enumerate((("a", ""), ("a", "3 4 1,2:0,3"), ("b", "3 4 1,1:1,2"), ("a", "3 5 -:-"),
                                           ("a", "3 4 -"))):
        more, get = _restore(path, name, DataType.FLOAT, f"get{number}", spec)
        nodes += more
        runs.append(Run(get, [f"get{number}:0"]))
    yield graph_case("RestoreSlice", "", nodes, *runs)
    other = f"{case_folder()}/old shards"
    first, put_first = _save(f"{other}_1", ["a"], [ROWS[:1]], ["3 4 0,1:-"], "one")
    second, put_second = _save(f"{other}_2", ["a"], [ROWS[1:]], ["3 4 1,2:-"], "two")
    more, get = _restore(f"{other}_?", "a", DataType.FLOAT, "get")
    yield graph_case("Restore", "of two files", [*first, *second, *more], Run(put_first, [], ["one"]),
                     Run(put_second, [], ["two"]), Run(get, ["get:0"]))


def _rules() -> Iterator[Case]:
    path = f"{case_folder()}/old rules"
    nodes, put = _save(path, ["a"], [ROWS])
    runs = [Run(put, [], ["save"])]
    for number, (where, name, kind) in enumerate(((path, "b", DataType.FLOAT), (path, "a", DataType.INT32),
                                                  (f"{path} nowhere", "a", DataType.FLOAT))):
        more, get = _restore(where, name, kind, f"get{number}")
        nodes += more
        runs.append(Run(get, [f"get{number}:0"]))
    yield graph_case("Restore", "rules", nodes, *runs)
    for number, (names, specs) in enumerate(((["a", "b"], None), ([], None), (["a"], ["3 4 -:-", ""]),
                                             (["a"], ["3 5 -:-"]), (["a"], ["3 4 -:0,2"]))):
        nodes, put = _save(path, names, [ROWS], specs)
        yield graph_case("Save" if specs is None else "SaveSlices", f"wrong {number}", nodes, Run(put, [], ["save"]))
