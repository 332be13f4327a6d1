"""The checkpoint ops: what they check, and that they save, restore and merge."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runtime.dtypes import DataType, from_numpy
from runtime.errors import Error, InvalidArgument, NotFound, PermissionDenied
from runtime.step.files import FileAccess
from tests.ops.case import Case, Run, graph_case, node
from tests.ops.kernel_runner import KernelRunner


def text(*items: str) -> np.ndarray[Any, Any]:
    """Return strings as a tensor."""
    result = np.empty(len(items), object)
    result[:] = [item.encode() for item in items]
    return result


def run(case: Case, folder: Path | None = None) -> list[Any]:
    """Run the only step of a case."""
    runner = KernelRunner(case)
    if folder is not None:
        runner.session.files = FileAccess([folder])
    return list(runner.run(case.runs[0]))


def save(prefix: Path | str, names: Sequence[str], specs: Sequence[str], *tensors: np.ndarray[Any, Any],
         folder: Path | None = None) -> None:
    """Run SaveV2."""
    inputs = {"prefix": np.array(str(prefix).encode(), object), "names": text(*names), "specs": text(*specs),
              **{f"t{number}": tensor for number, tensor in enumerate(tensors)}}
    types = [from_numpy(value.dtype) for value in inputs.values()]
    nodes = [node("Placeholder", name, dtype=kind) for name, kind in zip(inputs, types, strict=True)]
    nodes.append(node("SaveV2", "save", list(inputs), dtypes=types[3:]))
    run(graph_case("SaveV2", "save", nodes, Run({f"{name}:0": value for name, value in inputs.items()}, [], ["save"])),
        folder)


def restore(prefix: Path | str, names: Sequence[str], specs: Sequence[str], *types: DataType,
            folder: Path | None = None) -> list[Any]:
    """Run RestoreV2."""
    inputs = {"prefix": np.array(str(prefix).encode(), object), "names": text(*names), "specs": text(*specs)}
    nodes = [node("Placeholder", name, dtype=DataType.STRING) for name in inputs]
    nodes.append(node("RestoreV2", "restore", list(inputs), dtypes=list(types)))
    fetches = [f"restore:{number}" for number in range(len(types))]
    return run(graph_case("RestoreV2", "restore", nodes,
                          Run({f"{name}:0": value for name, value in inputs.items()}, fetches)), folder)


def merge(prefixes: Sequence[Path], destination: Path, **attrs: Any) -> None:
    """Run MergeV2Checkpoints."""
    inputs = {"from": text(*map(str, prefixes)), "to": np.array(str(destination).encode(), object)}
    nodes = [node("Placeholder", name, dtype=DataType.STRING) for name in inputs]
    nodes.append(node("MergeV2Checkpoints", "merge", list(inputs), **attrs))
    run(graph_case("MergeV2Checkpoints", "merge", nodes,
                   Run({f"{name}:0": value for name, value in inputs.items()}, [], ["merge"])))


F = DataType.FLOAT
WEIGHTS = np.arange(12, dtype=np.float32).reshape(3, 4)


def test_what_is_saved_is_restored(tmp_path: Path) -> None:
    words = text("a", "bc")
    save(tmp_path / "m", ["w", "words", "step"], ["", "", ""], WEIGHTS, words, np.array(7))
    found = restore(tmp_path / "m", ["step", "w", "words", "w"], ["", "", "", "3 4 1,2:-"], DataType.INT64, F,
                    DataType.STRING, F)
    assert int(found[0]) == 7
    np.testing.assert_array_equal(found[1], WEIGHTS)
    np.testing.assert_array_equal(found[2], words)
    np.testing.assert_array_equal(found[3], WEIGHTS[1:])


def test_parts_are_saved_and_merged(tmp_path: Path) -> None:
    for number in range(2):
        save(tmp_path / f"part{number}" / "p", ["w"], [f"6 4 {3 * number},3:-"], WEIGHTS + 100 * number)
    merge([tmp_path / f"part{number}" / "p" for number in range(2)], tmp_path / "m", delete_old_dirs=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.data-00000-of-00002", "m.data-00001-of-00002",
                                                                "m.index"]
    np.testing.assert_array_equal(restore(tmp_path / "m", ["w"], [""], F)[0],
                                  np.concatenate([WEIGHTS, WEIGHTS + 100]))


def test_old_folders_stay_when_asked_or_in_use(tmp_path: Path) -> None:
    for name in ("kept", "used"):
        save(tmp_path / name / "p", [name], [""], WEIGHTS)
    merge([tmp_path / "kept" / "p"], tmp_path / "a", delete_old_dirs=False)
    (tmp_path / "used" / "notes.txt").write_text("mine")
    merge([tmp_path / "used" / "p"], tmp_path / "b", delete_old_dirs=True)
    assert (tmp_path / "kept").is_dir()
    assert (tmp_path / "used" / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize(("names", "specs", "types", "kind", "message"), [
    (["zz"], [""], [F], NotFound, "Key zz not found in checkpoint"),
    (["w"], [""], [DataType.INT32], InvalidArgument,
     "tensor_name = w; expected dtype int32 does not equal original dtype float"),
    (["w"], ["3 5 1,2:-"], [F], InvalidArgument,
     "tensor_name = w; shape in shape_and_slice spec [3,5] does not match the shape stored in checkpoint: [3,4]"),
])
def test_restoring_checks(tmp_path: Path, names: list[str], specs: list[str], types: list[DataType],
                          kind: type[Error], message: str) -> None:
    save(tmp_path / "m", ["w"], [""], WEIGHTS)
    with pytest.raises(kind) as caught:
        restore(tmp_path / "m", names, specs, *types)
    assert caught.value.message == message


def test_saving_checks(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument) as caught:
        save(tmp_path / "m", ["w"], ["3 4 1,2:-"], WEIGHTS)
    assert caught.value.message == ("Slice in shape_and_slice specification does not match the shape of the tensor to  "
                                    "save: 3 4 1,2:-, tensor: [3,4]")
    with pytest.raises(InvalidArgument, match="as many elements as there are tensors: 2 and 1"):
        save(tmp_path / "m", ["v", "w"], ["", ""], WEIGHTS)
    assert list(tmp_path.iterdir()) == []


def test_files_outside_the_allowed_directories_are_not_touched(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    save(tmp_path / "out" / "m", ["w"], [""], WEIGHTS)
    with pytest.raises(PermissionDenied):
        restore(tmp_path / "out" / "m", ["w"], [""], F, folder=tmp_path / "in")
    with pytest.raises(PermissionDenied):
        save(tmp_path / "in" / ".." / "out" / "n", ["w"], [""], WEIGHTS, folder=tmp_path / "in")
    save(tmp_path / "in" / "m", ["w"], [""], WEIGHTS, folder=tmp_path / "in")
    np.testing.assert_array_equal(restore(tmp_path / "in" / "m", ["w"], [""], F, folder=tmp_path / "in")[0], WEIGHTS)
