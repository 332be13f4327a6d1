"""Checkpoints both ways between TensorFlow and us."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from runtime.checkpoint.bundle import BundleReader, write_bundle
from runtime.checkpoint.slices import TensorSlice, parse_shape_and_slice
from runtime.dtypes import DataType, from_numpy
from tests.checkpoint.test_bundle import KINDS, strings
from tests.peers import run_peer

SPECS = ("10 6 0,4:0,2", "10 6 0,4:2,4", "10 6 4,6:-")


def values() -> dict[str, np.ndarray[Any, Any]]:
    """Return tensors of every type; enough names to need restarts within a block, with beginnings in common."""
    found = {f"{np.dtype(kind).name}/{'x'.join(map(str, shape))}": np.arange(np.prod(shape)).reshape(shape).astype(kind)
             for kind in KINDS for shape in ((), (3,), (2, 0), (2, 3, 4))}
    found["strings"] = strings(b"", b"\x00\xff", b"x" * 300).reshape(3, 1)
    found["string"] = np.array(b"alone", object)
    for number in range(100):
        found[f"model/layer_{number}/weights"] = np.full(number % 3, number, np.float32)
    found["large"] = np.random.default_rng(1).normal(size=200_000)
    return found


def described(reader: BundleReader) -> dict[bytes, Any]:
    """Return the entries, sizes and checksums included, without the order in which the data lies."""
    return {key: dataclasses.replace(entry, offset=0) for key, entry in reader.entries().items()}


def test_both_read_what_the_other_writes(tmp_path: Path) -> None:
    tensors = values()
    parts = np.arange(60.0).reshape(10, 6)
    bounds = [parse_shape_and_slice(spec)[1].bounds((10, 6)) for spec in SPECS]
    stored = {name: value.view(np.uint16) if value.dtype == ml_dtypes.bfloat16 else value
              for name, value in tensors.items()}
    np.savez(tmp_path / "values.npz", parts=parts, **stored)  # type: ignore[arg-type]
    (tmp_path / "specs.json").write_text(json.dumps(list(zip(SPECS, bounds, strict=True))))
    saved: list[Any] = [(name.encode(), from_numpy(value.dtype), None, value) for name, value in tensors.items()]
    for spec, bound in zip(SPECS, bounds, strict=True):
        saved.append((b"parts", DataType.DOUBLE, parse_shape_and_slice(spec), parts[tuple(slice(*b) for b in bound)]))
    write_bundle(str(tmp_path / "ours"), saved)
    run_peer(Path(__file__).with_name("peer_bundle.py"), str(tmp_path))
    with BundleReader(str(tmp_path / "theirs")) as reader, BundleReader(str(tmp_path / "ours")) as ours:
        assert reader.keys() == ours.keys()
        assert described(reader) == described(ours)
        for name, value in tensors.items():
            found = reader.read(name.encode())
            assert found.dtype == value.dtype
            np.testing.assert_array_equal(found, value)
        np.testing.assert_array_equal(reader.read(b"parts"), parts)
        np.testing.assert_array_equal(reader.read(b"parts", TensorSlice.parse("3,4:1,5")), parts[3:7, 1:6])
