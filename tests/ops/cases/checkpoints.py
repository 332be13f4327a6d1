"""Cases of checkpoints; `tests/checkpoint` swaps files with TensorFlow, both ways."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from runtime.dtypes import DataType, from_numpy
from tests.ops.case import Case, Run, as_array, graph_case, node
from tests.ops.cases.variables import fed, feeds
from tests.ops.folder import case_folder
from tests.ops.pipeline import WIDE
from tests.ops.values import TYPES

ROWS = np.arange(12, dtype=np.float32).reshape(3, 4)


def cases() -> Iterator[Case]:
    """Yield the cases."""
    yield from _round_trips()
    yield from _slices()
    yield from _rules()
    yield from _merged()


def _save(label: str, path: str, names: Sequence[str], slices: Sequence[str],
          arrays: Sequence[np.ndarray]) -> tuple[list[Any], Run]:
    inputs = {f"{label}_prefix": as_array(path), f"{label}_names": _texts(names), f"{label}_slices": _texts(slices),
              **{f"{label}_{place}": array for place, array in enumerate(arrays)}}
    made = node("SaveV2", label, list(inputs), dtypes=[from_numpy(array.dtype) for array in arrays])
    return [*fed(**inputs), made], Run(feeds(**inputs), [], [label])


def _restore(label: str, path: str, names: Sequence[str], slices: Sequence[str],
             kinds: Sequence[Any]) -> tuple[list[Any], Run]:
    inputs = {f"{label}_prefix": as_array(path), f"{label}_names": _texts(names), f"{label}_slices": _texts(slices)}
    made = node("RestoreV2", label, list(inputs), dtypes=list(kinds))
    return [*fed(**inputs), made], Run(feeds(**inputs), [f"{label}:{place}" for place in range(len(kinds))])


def _texts(values: Sequence[str]) -> np.ndarray:
    return as_array(list(values)) if values else np.zeros(0, object)


def _case(op: str, label: str, *parts: tuple[list[Any], Run], **options: Any) -> Case:
    return graph_case(op, label, [made for nodes, _ in parts for made in nodes], *[run for _, run in parts], **options)


def _round_trips() -> Iterator[Case]:
    names = [f"tensor/{place}" for place in range(len(WIDE))]
    path, plain = f"{case_folder()}/every type", [""] * len(WIDE)
    yield _case("SaveV2", "every type", _save("save", path, names, plain, WIDE),
                _restore("get", path, names[::-1], plain, TYPES[::-1]))
    scalars = (np.array(2.5), np.zeros((0, 3), np.float32), as_array(""))
    path = f"{case_folder()}/scalars"
    kinds = [from_numpy(array.dtype) for array in scalars]
    yield _case("RestoreV2", "scalars", _save("save", path, names[:3], plain[:3], scalars),
                _restore("get", path, names[:3], plain[:3], kinds))


def _slices() -> Iterator[Case]:
    path = f"{case_folder()}/slices"
    halves = ["3 4 0,2:-", "3 4 2,1:-"]
    parts = [_save("save", path, ["v", "v"], halves, [ROWS[:2], ROWS[2:]])]
    kind = from_numpy(ROWS.dtype)
    for place, wanted in enumerate(("", "3 4 -:-", "3 4 1,2:1,2", "3 4 0,3:0,1", "3 5 -:-", "3 4 2,2:-", "nothing")):
        parts.append(_restore(f"get{place}", path, ["v"], [wanted], [kind]))
    yield _case("RestoreV2", "slices", *parts, text=False)
    whole = [_save("save", f"{path} of a whole", ["v"], [""], [ROWS])]
    for place, wanted in enumerate(("3 4 1,2:1,2", "3 4 -:3,1")):
        whole.append(_restore(f"get{place}", f"{path} of a whole", ["v"], [wanted], [kind]))
    yield _case("RestoreV2", "slices of a whole", *whole)
    yield _case("SaveV2", "a slice of another shape",
                _save("save", f"{path} wrong", ["v"], ["3 4 0,1:-"], [ROWS[:2]]), text=False)


def _rules() -> Iterator[Case]:
    path = f"{case_folder()}/rules"
    kind = from_numpy(ROWS.dtype)
    parts = [_save("save", path, ["a"], [""], [ROWS])]
    for place, (names, slices, kinds, where) in enumerate((
            (["b"], [""], [kind], path), (["a"], [""], [from_numpy(np.dtype(np.int32))], path),
            (["a"], [""], [kind], f"{path} not there"), (["a", "a"], [""], [kind, kind], path),
            (["a"], ["", ""], [kind], path), (["a", "a"], ["", ""], [kind, kind], path))):
        parts.append(_restore(f"get{place}", where, names, slices, kinds))
    yield _case("RestoreV2", "rules", *parts, text=False)
    for label, names, slices, arrays in (("two names", ["a", "b"], ["", ""], [ROWS]), ("no slices", ["a"], [], [ROWS]),
                                         ("a name twice", ["a", "a"], ["", ""], [ROWS, ROWS])):
        yield _case("SaveV2", label, _save("save", f"{path} {label}", names, slices, arrays), text=False)


def _merged() -> Iterator[Case]:
    kind = from_numpy(ROWS.dtype)
    for label, second, allowed in (("two", True, False), ("one missing", False, True),
                                   ("one missing, not allowed", False, False)):
        folder = f"{case_folder()}/merge {label}"
        prefixes = [f"{folder}/part{place}" for place in range(2)]
        parts = [_save("one", prefixes[0], ["a"], [""], [ROWS])]
        if second:
            parts.append(_save("two", prefixes[1], ["b", "c"], ["", ""], [ROWS * 2, as_array("text")]))
        inputs = {"prefixes": as_array(prefixes), "into": as_array(f"{folder}/whole")}
        parts.append(([*fed(**inputs), node("MergeV2Checkpoints", "merge", list(inputs), delete_old_dirs=False,
                                            allow_missing_files=allowed)], Run(feeds(**inputs), [], ["merge"])))
        parts.append(_restore("get", f"{folder}/whole", ["a"], [""], [kind]))
        if second:
            parts.append(_restore("more", f"{folder}/whole", ["c", "b"], ["", ""], [DataType.STRING, kind]))
        yield _case("MergeV2Checkpoints", label, *parts, text=False)
