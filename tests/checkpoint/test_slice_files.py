"""The older checkpoint format: both ways between TensorFlow and us, and damaged files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from runtime.checkpoint.slice_files import SavedSlice, SliceFiles, write_slice_file
from runtime.checkpoint.slices import FULL, TensorSlice
from runtime.dtypes import from_numpy
from runtime.errors import DataLoss, Error, InvalidArgument, NotFound
from tests.peers import run_peer

PEER = Path(__file__).with_name("peer_slices.py")
KINDS = (np.float32, np.float64, np.int32, np.int64, np.int16, np.int8, np.uint8, np.uint16, np.bool_, np.complex64,
         np.complex128, np.float16)
PARTS = np.arange(24, dtype=np.float32).reshape(4, 6)


def values() -> dict[str, np.ndarray[Any, Any]]:
    found = {f"{np.dtype(kind).name}/{'x'.join(map(str, shape))}":
             (np.arange(np.prod(shape)) - 3 * (np.dtype(kind).kind in "if")).reshape(shape).astype(kind)
             for kind in KINDS for shape in ((), (3,), (2, 0), (2, 3, 4))}
    texts = np.empty((3, 1), object)
    texts[:, 0] = [b"", b"\x00\xff", b"x" * 300]
    found["strings"] = texts
    found["large"] = np.random.default_rng(1).normal(size=100_000)
    return found


def whole(name: str, array: np.ndarray[Any, Any]) -> SavedSlice:
    everything = TensorSlice(((0, FULL),) * array.ndim)
    return SavedSlice(name.encode(), from_numpy(array.dtype), array.shape, everything, array)


def part(start: int, length: int) -> SavedSlice:
    return SavedSlice(b"parts", from_numpy(PARTS.dtype), PARTS.shape, TensorSlice(((start, length), (0, FULL))),
                      PARTS[start:start + length])


def test_both_read_what_the_other_writes(tmp_path: Path) -> None:
    tensors = values()
    np.savez(tmp_path / "values.npz", parts=PARTS, **tensors)
    write_slice_file(str(tmp_path / "ours"),
                     [*(whole(name, array) for name, array in tensors.items()), part(0, 2), part(2, 2)])
    run_peer(PEER, str(tmp_path), timeout_s=100.0)
    for name in ("ours", "theirs"):
        reader = SliceFiles([str(tmp_path / name)], name)
        assert reader.names() == sorted(text.encode() for text in (*tensors, "parts"))
        for text, array in tensors.items():
            found = reader.read(text.encode())
            assert found.dtype == array.dtype
            assert found.tolist() == array.tolist()
        assert reader.read(b"parts").tolist() == PARTS.tolist()
        assert reader.read(b"parts", TensorSlice.parse("0,2:2,3")).tolist() == PARTS[:2, 2:5].tolist()


def test_types_of_half_a_float(tmp_path: Path) -> None:
    array = np.array([1.5, -2.25, 0.0]).astype(ml_dtypes.bfloat16)
    write_slice_file(str(tmp_path / "file"), [whole("a", array)])
    assert SliceFiles([str(tmp_path / "file")], "file").read(b"a").tolist() == array.tolist()


def test_what_is_not_there_is_told(tmp_path: Path) -> None:
    path = str(tmp_path / "file")
    write_slice_file(path, [part(0, 2)])
    reader = SliceFiles([path], "file")
    with pytest.raises(NotFound, match='^Tensor name "other" not found in checkpoint files file$'):
        reader.read(b"other")
    with pytest.raises(InvalidArgument, match="does not hold all of tensor parts"):
        reader.read(b"parts")
    assert reader.read(b"parts", TensorSlice.parse("0,2:-")).tolist() == PARTS[:2].tolist()
    with pytest.raises(NotFound, match="Failed to find any matching files"):
        SliceFiles([], "nothing")


def test_a_tensor_saved_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="saved twice"):
        write_slice_file(str(tmp_path / "file"), [part(0, 2), part(0, 2)])
    assert not (tmp_path / "file").exists()


def test_damage_is_an_error_of_ours(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_slice_file(str(path), [part(0, 2), part(2, 2), whole("a", np.arange(5))])
    content = path.read_bytes()
    for place in range(0, len(content), 3):
        path.write_bytes(content[:place] + bytes([content[place] ^ 0x55]) + content[place + 1:])
        try:
            reader = SliceFiles([str(path)], "file")
            for name in reader.names():
                reader.read(name)
        except Error:
            pass
    for end in range(0, len(content), 7):
        path.write_bytes(content[:end])
        with pytest.raises(DataLoss):
            SliceFiles([str(path)], "file")
