"""Bundles of tensors on our side alone: writing, reading, merging, damage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from runtime.checkpoint.bundle import BundleReader, merge_bundles, write_bundle
from runtime.checkpoint.slices import TensorSlice, parse_shape_and_slice
from runtime.dtypes import DataType, from_numpy
from runtime.errors import DataLoss, Error, Internal, InvalidArgument, NotFound, OutOfRange, PermissionDenied
from runtime.step.files import FileAccess

KINDS = (np.float16, ml_dtypes.bfloat16, np.float32, np.float64, np.int8, np.uint8, np.int16, np.uint16, np.int32,
         np.uint32, np.int64, np.uint64, np.complex64, np.complex128, np.bool_)


def strings(*texts: bytes) -> np.ndarray[Any, Any]:
    result = np.empty(len(texts), object)
    result[:] = texts
    return result


def save(prefix: Path, **tensors: np.ndarray[Any, Any]) -> None:
    write_bundle(str(prefix), [(name.encode(), from_numpy(value.dtype), None, value)
                               for name, value in tensors.items()])


def test_every_type_and_shape_comes_back(tmp_path: Path) -> None:
    tensors = {f"{np.dtype(kind).name}{list(shape)}": np.arange(np.prod(shape), dtype=np.int64).reshape(shape)
               .astype(kind) for kind in KINDS for shape in ((), (3,), (2, 0), (2, 3, 4))}
    tensors["strings"] = strings(b"", b"\x00\xff", b"x" * 300).reshape(3, 1)
    tensors["string"] = np.array(b"alone", object)
    tensors["transposed"] = np.arange(6.0).reshape(2, 3).T
    save(tmp_path / "model", **tensors)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.data-00000-of-00001", "model.index"]
    with BundleReader(str(tmp_path / "model")) as reader:
        assert reader.keys() == sorted(name.encode() for name in tensors)
        for name, value in tensors.items():
            found = reader.read(name.encode())
            assert found.dtype == value.dtype
            np.testing.assert_array_equal(found, value)


def test_quantized_types_keep_their_name(tmp_path: Path) -> None:
    write_bundle(str(tmp_path / "m"), [(b"q", DataType.QINT8, None, np.arange(3, dtype=np.int8))])
    with BundleReader(str(tmp_path / "m")) as reader:
        assert reader.entry(b"q").dtype == DataType.QINT8


def test_parts_are_put_together(tmp_path: Path) -> None:
    whole = np.arange(60.0).reshape(10, 6)
    specs = ("10 6 0,4:0,2", "10 6 0,4:2,4", "10 6 4,6:-")
    saved = []
    for spec in specs:
        shape, part = parse_shape_and_slice(spec)
        saved.append((b"t", DataType.DOUBLE, (shape, part), whole[tuple(slice(*b) for b in part.bounds(shape))]))
    write_bundle(str(tmp_path / "m"), saved)
    with BundleReader(str(tmp_path / "m")) as reader:
        assert reader.keys() == [b"t"]
        np.testing.assert_array_equal(reader.read(b"t"), whole)
        for text in ("2,5:1,4", "-:3,1", "0,4:0,2", "9,1:-"):
            part = TensorSlice.parse(text)
            np.testing.assert_array_equal(reader.read(b"t", part),
                                          whole[tuple(slice(*b) for b in part.bounds((10, 6)))])
    write_bundle(str(tmp_path / "hole"), saved[:2])
    with BundleReader(str(tmp_path / "hole")) as reader, pytest.raises(InvalidArgument, match="do not cover"):
        reader.read(b"t")
    with BundleReader(str(tmp_path / "hole")) as reader:
        np.testing.assert_array_equal(reader.read(b"t", TensorSlice.parse("1,3:-")), whole[1:4])


def test_a_part_of_a_whole_tensor_is_the_callers_own(tmp_path: Path) -> None:
    save(tmp_path / "m", t=np.arange(12.0).reshape(3, 4))
    with BundleReader(str(tmp_path / "m")) as reader:
        part = reader.read(b"t", TensorSlice.parse("1,2:-"))
    np.testing.assert_array_equal(part, np.arange(4.0, 12.0).reshape(2, 4))
    assert part.flags.owndata and part.flags.writeable


def test_names_are_checked(tmp_path: Path) -> None:
    one = np.ones(1)
    with pytest.raises(InvalidArgument, match=r"^Adding duplicate key: a$"):
        write_bundle(str(tmp_path / "m"), [(b"a", DataType.DOUBLE, None, one)] * 2)
    with pytest.raises(InvalidArgument, match="needs a name"):
        write_bundle(str(tmp_path / "m"), [(b"", DataType.DOUBLE, None, one)])
    part = parse_shape_and_slice("4 0,1")
    other = parse_shape_and_slice("5 1,1")
    with pytest.raises(Internal, match="does not belong"):
        write_bundle(str(tmp_path / "m"), [(b"a", DataType.DOUBLE, part, one), (b"a", DataType.DOUBLE, other, one)])
    assert list(tmp_path.iterdir()) == [], "nothing is left of a bundle that failed"
    save(tmp_path / "m", a=one)
    with BundleReader(str(tmp_path / "m")) as reader, pytest.raises(NotFound) as caught:
        reader.read(b"b")
    assert caught.value.message == "Key b not found in checkpoint"


def test_a_failed_save_leaves_the_old_one(tmp_path: Path) -> None:
    save(tmp_path / "m", a=np.ones(3))
    with pytest.raises(Error):
        write_bundle(str(tmp_path / "m"), [(b"a", DataType.RESOURCE, None, np.array(None))])
    with BundleReader(str(tmp_path / "m")) as reader:
        np.testing.assert_array_equal(reader.read(b"a"), np.ones(3))
    assert len(list(tmp_path.iterdir())) == 2


def test_missing_files_are_told(tmp_path: Path) -> None:
    with pytest.raises(NotFound) as caught:
        BundleReader(str(tmp_path / "none"))
    assert caught.value.message == ("Unsuccessful TensorSliceReader constructor: Failed to find any matching files for "
                                    f"{tmp_path / 'none'}")
    with pytest.raises(NotFound) as caught:
        save(tmp_path / "two" / "deep" / "m", a=np.ones(1))
    assert caught.value.message == f"{tmp_path / 'two' / 'deep'}; No such file or directory"
    save(tmp_path / "one" / "m", a=np.ones(1))  # one level is made
    (tmp_path / "one" / "m.data-00000-of-00001").unlink()
    with BundleReader(str(tmp_path / "one" / "m")) as reader, pytest.raises(NotFound, match="No such file"):
        reader.read(b"a")


def test_damage_is_told(tmp_path: Path) -> None:
    save(tmp_path / "m", a=np.arange(100.0), s=strings(b"abc", b"de"))
    data = tmp_path / "m.data-00000-of-00001"
    good = data.read_bytes()
    for position in (0, 799, 800, 803, len(good) - 1):
        damaged = bytearray(good)
        damaged[position] ^= 0x10
        data.write_bytes(damaged)
        name = b"a" if position < 800 else b"s"
        with BundleReader(str(tmp_path / "m")) as reader, pytest.raises(DataLoss):
            reader.read(name)
    data.write_bytes(good[:500])
    with BundleReader(str(tmp_path / "m")) as reader:
        for name in (b"a", b"s"):
            with pytest.raises(OutOfRange, match=r"^Read less bytes than requested$"):
                reader.read(name)
    (tmp_path / "m.index").write_bytes(b"hello")
    with pytest.raises(DataLoss, match=r"^file is too short to be an sstable$"):
        BundleReader(str(tmp_path / "m"))


def test_bundles_are_merged(tmp_path: Path) -> None:
    whole = np.arange(8.0)
    for number in range(2):
        (tmp_path / f"part{number}").mkdir()
        shape, part = parse_shape_and_slice(f"8 {4 * number},4")
        write_bundle(str(tmp_path / f"part{number}" / "p"), [
            (f"own{number}".encode(), DataType.DOUBLE, None, np.full(3, number, float)),
            (b"shared", DataType.DOUBLE, (shape, part), whole[4 * number:4 * number + 4])])
    sources = [str(tmp_path / f"part{number}" / "p") for number in range(2)]
    target = str(tmp_path / "merged")
    with pytest.raises(InvalidArgument, match="allow_missing_files was set to false"):
        merge_bundles([*sources, str(tmp_path / "none")], target)
    merge_bundles([*sources, str(tmp_path / "none")], target, allow_missing_files=True)
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == [
        "merged.data-00000-of-00002", "merged.data-00001-of-00002", "merged.index"]
    with BundleReader(target) as reader:
        np.testing.assert_array_equal(reader.read(b"shared"), whole)
        np.testing.assert_array_equal(reader.read(b"own1"), np.ones(3))
    assert list((tmp_path / "part0").iterdir()) == []


def test_the_same_tensor_twice_is_not_merged(tmp_path: Path) -> None:
    for name in ("one", "two"):
        save(tmp_path / name, a=np.ones(2))
    with pytest.raises(InvalidArgument, match="Duplicate tensor keyed by a"):
        merge_bundles([str(tmp_path / "one"), str(tmp_path / "two")], str(tmp_path / "m"))
    with BundleReader(str(tmp_path / "one")) as reader:
        np.testing.assert_array_equal(reader.read(b"a"), np.ones(2))


def test_reading_stays_within_the_allowed_directories(tmp_path: Path) -> None:
    for folder in ("in", "out"):
        save(tmp_path / folder / "m", a=np.ones(2))
    access = FileAccess([tmp_path / "in"])
    with BundleReader(str(tmp_path / "in" / "m"), access.check) as reader:
        reader.read(b"a")
    with pytest.raises(PermissionDenied):
        BundleReader(str(tmp_path / "out" / "m"), access.check)
    (tmp_path / "in" / "m.data-00000-of-00001").unlink()
    (tmp_path / "in" / "m.data-00000-of-00001").symlink_to(tmp_path / "out" / "m.data-00000-of-00001")
    with BundleReader(str(tmp_path / "in" / "m"), access.check) as reader, pytest.raises(PermissionDenied):
        reader.read(b"a")
