"""Cases of remapped vocabularies, on files and checkpoints that ours has written."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from runtime.checkpoint.bundle import write_bundle
from runtime.dtypes import DataType
from tests.ops.case import Case, as_array, op_case
from tests.ops.folder import case_file, case_folder

MATRIX = np.arange(20, dtype=np.float32).reshape(5, 4)


def cases() -> Iterator[Case]:
    """Yield the cases."""
    yield from _words()
    yield from _matrices()


def _words() -> Iterator[Case]:
    new = case_file("vocabulary_new", b"knitting\neminem\nflannel\nbeach\n")
    old = case_file("vocabulary_old", b"flannel\nbeach\nmountains\nknitting\n")
    empty, twice = case_file("vocabulary_empty", b""), case_file("vocabulary_twice", b"a\nb\na\n")
    for offset, count, size in ((0, 4, -1), (1, 2, -1), (0, 4, 2), (4, 0, -1), (2, 3, -1), (0, 4, 9)):
        yield op_case("GenerateVocabRemapping", new, old, new_vocab_offset=offset, num_new_vocab=count,
                      old_vocab_size=size)
    for pair in ((empty, old), (new, empty), (new, twice), ("", old), (new, ""), (as_array(["a"]), old),
                 ("/nowhere/at all", old)):
        yield op_case("GenerateVocabRemapping", *pair, new_vocab_offset=0, num_new_vocab=2, name=str(pair)[-20:])


def _matrices() -> Iterator[Case]:
    prefix = f"{case_folder()}/matrix"
    write_bundle(prefix, [(b"matrix", DataType.FLOAT, None, MATRIX),
                          (b"ints", DataType.INT32, None, np.ones((2, 2), np.int32)),
                          (b"vector", DataType.FLOAT, None, np.ones(3, np.float32))])

    def case(rows: Any, cols: Any, initial: int, name: str = "matrix", num_cols: int | None = None, path: Any = prefix,
             num_rows: int | None = None, **attrs: Any) -> Case:
        values = -1.0 - np.arange(initial, dtype=np.float32)
        width = (len(cols) if len(cols) else 4) if num_cols is None else num_cols
        return op_case("LoadAndRemapMatrix", path, name, np.array(rows, np.int64), np.array(cols, np.int64), values,
                       num_rows=len(rows) if num_rows is None else num_rows, num_cols=width, **attrs,
                       name=f"{rows} {cols} {name}")

    yield case([0, 1, 2, 3, 4], [], 0)
    yield case([4, -1, 0], [], 4)
    yield case([4, -1, 0], [], 4, max_rows_in_memory=1)
    yield case([4, 2, 1, 3, 0], [3, 0], 0, max_rows_in_memory=2)
    yield case([2, -1, 1], [1, -1, 0, -1, 2], 11)
    yield case([-1, -1], [], 8)
    yield case([-1], [-1, -1], 2)
    yield case([0, 0], [], 0)
    yield case([0, 1], [2, 2], 0)
    yield case([0, -1], [], 3)
    yield case([0, -1], [], 5)
    yield case([0, 1], [], 0, num_rows=3)
    yield case([0, 1], [1, 2], 0, num_cols=3)
    yield case([0, 1], [], 0, num_cols=3)
    yield case([0, 1], [], 0, "ints")
    yield case([0, 1], [], 0, "vector")
    yield case([0, 1], [], 0, "nothing")
    yield case([0, 1], [], 0, path=f"{prefix} nowhere")
