"""Arrays of all kinds, and what it means that two are the same."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

Array = np.ndarray[Any, Any]

_PLAIN = st.one_of(
    hnp.scalar_dtypes(),
    hnp.byte_string_dtypes(max_len=5),
    hnp.unicode_string_dtypes(max_len=5),
    st.sampled_from([np.dtype(ml_dtypes.bfloat16), np.dtype(ml_dtypes.float8_e4m3fn), np.dtype(ml_dtypes.int4)]),
)


@st.composite
def any_array(draw: st.DrawFn, max_side: int = 6) -> Array:
    """Any dtype, shape, order and alignment; empty, without dimensions, with steps and turned round."""
    dtype = draw(_PLAIN)
    shape = draw(hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=max_side))
    size = int(np.prod(shape))
    content = draw(st.binary(min_size=size * dtype.itemsize, max_size=size * dtype.itemsize))
    if dtype.kind == "U":  # not every number is a character
        array = np.array([draw(st.text(st.characters(max_codepoint=0xD7FF), max_size=5)) for _ in range(size)],
                         dtype).reshape(shape)
    elif dtype == np.bool_:
        array = np.array([byte & 1 for byte in content], np.bool_).reshape(shape)
    else:
        offset = draw(st.integers(0, 9))
        memory = np.frombuffer(bytes(offset) + content + bytes(1), np.uint8)[offset:offset + len(content)]
        array = np.ndarray(shape, dtype, memoryview(memory)) if size * dtype.itemsize else np.empty(shape, dtype)
    form = draw(st.sampled_from(["as it is", "F", "T", "steps", "turned round"]))
    if form == "F":
        return np.asfortranarray(array) if array.ndim else array
    if form == "T":
        return array.T
    if form == "steps" and array.ndim:
        return array[::2]
    if form == "turned round" and array.ndim:
        return array[::-1]
    return array


def same(found: Array, expected: Array) -> bool:
    """Tell whether two arrays are equal to the bit."""
    return bool(found.dtype == expected.dtype and found.shape == expected.shape
                and found.tobytes("C") == expected.tobytes("C"))
