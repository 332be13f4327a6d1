"""Arrays as items: whatever an array is like, its twin at the other end is equal to the bit."""

from __future__ import annotations

import gc

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime import wire
from runtime._ext import dlpack
from runtime._ext.buffer_pool import MIN_CAPACITY
from runtime.errors import InvalidArgument
from runtime.transport import arrays, segments
from tests.transport.dlpack_producer import ForeignTensor
from tests.transport.samples import any_array, same

Item = wire.runtime_v1.Item


def twin(array: np.ndarray) -> np.ndarray:
    out = arrays.outgoing("x", array)
    item = Item.FromString(out.item.SerializeToString())
    arrays.check_item(item)
    memory = arrays.destination(item)
    memory[...] = out.content
    return arrays.incoming(item, memory)


@settings(max_examples=200, deadline=None)
@given(array=any_array())
def test_any_array_has_a_twin(array: np.ndarray) -> None:
    assert same(twin(array), array)


@pytest.mark.parametrize("order", ["C", "F"])
def test_order_is_kept_without_a_copy(order: str) -> None:
    array = np.asarray(np.arange(24.0).reshape(2, 3, 4), order=order)
    out = arrays.outgoing("x", array)
    assert not out.copied and np.shares_memory(out.content, array)
    assert twin(array).strides == array.strides


def test_what_is_scattered_is_brought_together() -> None:
    array = np.arange(100).reshape(10, 10)[::2, 1::3]
    out = arrays.outgoing("x", array)
    assert out.copied
    assert same(twin(array), array)


def test_strings_travel_as_messages() -> None:
    array = np.array([["a", b"\xff\0"], ["\N{SNOWMAN}", ""]], object)
    found = twin(array)
    assert found.tolist() == [[b"a", b"\xff\0"], ["\N{SNOWMAN}".encode(), b""]]


def test_special_values_keep_their_bits() -> None:
    bits = np.array([0x7FF8000000000001, 0xFFF0000000000000, 0x8000000000000000, 1], np.uint64)
    assert (twin(bits.view(np.float64)).view(np.uint64) == bits).all()


@pytest.mark.parametrize(("value", "text"), [
    (np.array([{}]), r"'x' is an array of objects with a dict at \(0,\): objects must be bytes or str"),
    (np.zeros(3, [("a", "f4"), ("b", "i2")]), "'x' has elements of .*: send the fields of a structured array"),
    ([[1, 2], [3]], "'x' is a builtins.list that cannot be read as an array"),
])
def test_what_has_no_form_is_refused_by_name(value: object, text: str) -> None:
    with pytest.raises(InvalidArgument, match=text):
        arrays.outgoing("x", value)


def test_names_are_checked() -> None:
    with pytest.raises(InvalidArgument, match="a name of 0 characters"):
        arrays.outgoing("", np.zeros(1))
    with pytest.raises(InvalidArgument, match="5 is no str"):
        arrays.named({5: np.zeros(1)})


class OnlyDlpack:
    """A tensor of another library, as far as it matters here."""

    def __init__(self, array: np.ndarray, device: int = 1) -> None:
        self._array = array
        self._device = device

    def __dlpack__(self, **options: object) -> object:
        return self._array.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self._device, 0


def test_dlpack_shares_the_memory() -> None:
    array = np.arange(10, dtype=np.float32)
    out = arrays.outgoing("x", OnlyDlpack(array))
    assert np.shares_memory(out.content, array) and same(out.array, array)


def test_a_tensor_of_another_library_is_sent_from_its_own_memory() -> None:
    tensor = ForeignTensor([1.5, 2.5, 3.5])
    out = arrays.outgoing("x", tensor)
    assert (out.content.ctypes.data, out.copied) == (tensor.address, False)
    assert out.array.tolist() == [1.5, 2.5, 3.5] and tensor.num_given_back == 0
    del out
    gc.collect()
    assert tensor.num_given_back == 1


@pytest.mark.parametrize(("dtype", "code"), [
    (ml_dtypes.bfloat16, 4), (ml_dtypes.float8_e4m3fn, 10), (ml_dtypes.float8_e5m2, 12)])
@pytest.mark.parametrize("strides", [None, [4, 1], [1, 3]])
def test_types_that_numpy_lacks_are_sent_from_their_own_memory_too(dtype: type, code: int, strides: list[int] | None
                                                                   ) -> None:
    values = np.arange(12).astype(dtype)
    tensor = ForeignTensor(values.tobytes(), [3, 4], strides, code, 8 * values.itemsize)
    out = arrays.outgoing("x", tensor)
    expected = values.reshape(4, 3).T if strides == [1, 3] else values.reshape(3, 4)
    assert same(out.array, expected) and not out.array.flags.writeable
    assert (out.content.ctypes.data, out.copied) == (tensor.address, False)
    assert tensor.num_given_back == 0
    del out
    gc.collect()
    assert tensor.num_given_back == 1


@pytest.mark.parametrize(("code", "bits", "lanes"), [(99, 32, 1), (4, 16, 2), (4, 32, 1)])
def test_types_that_nobody_knows_are_refused_by_name(code: int, bits: int, lanes: int) -> None:
    tensor = ForeignTensor(b"abcdefgh", [2], None, code, bits, lanes)
    with pytest.raises(InvalidArgument, match=f"'x' is a .*ForeignTensor that cannot be read as an array: the elements "
                                              f"have DLPack's type {code} of {bits} bits in {lanes} lanes"):
        arrays.outgoing("x", tensor)


def test_a_capsule_is_used_once() -> None:
    capsule = ForeignTensor(b"abcd", [2], None, 4, 16).__dlpack__()
    known = {(4, 16): np.dtype(ml_dtypes.bfloat16)}
    assert dlpack.read(capsule, known).shape == (2,)
    for none in (capsule, 5):
        with pytest.raises(InvalidArgument, match="is no DLPack capsule whose tensor nobody has taken yet"):
            dlpack.read(none, known)


def test_what_came_can_be_taken_by_another_library_without_a_copy() -> None:
    item = arrays.outgoing("x", np.zeros(200_000, np.float32)).item
    array = arrays.incoming(item, arrays.destination(item))
    taken = np.from_dlpack(array)  # as torch.from_dlpack does
    assert np.shares_memory(taken, array)
    lent = arrays._pool().num_lent
    del array
    assert arrays._pool().num_lent == lent  # its memory lives as long as the other library has it
    del taken
    assert arrays._pool().num_lent == lent - 1


def test_arrays_of_a_device_are_fetched_by_their_own_method() -> None:
    class OnDevice(OnlyDlpack):
        def get(self) -> np.ndarray:
            return self._array.copy()

    class OnTorchDevice(OnlyDlpack):
        def cpu(self) -> OnlyDlpack:
            return OnlyDlpack(self._array.copy())

    array = np.arange(10, dtype=np.float32)
    assert same(arrays.outgoing("x", OnDevice(array, device=2)).array, array)
    assert same(arrays.outgoing("x", OnTorchDevice(array, device=2)).array, array)
    assert np.shares_memory(arrays.outgoing("x", OnlyDlpack(array, device=3)).array, array)  # pinned, of the host


@pytest.mark.parametrize(("fields", "text"), [
    (dict(dtype="|O"), "Item.dtype of 'x' is '|O', which is no element type that is known here"),
    (dict(dtype="__import__('os')"), "Item.dtype of 'x' is"),
    (dict(dtype="<f3"), "Item.dtype of 'x' is '<f3'"),
    (dict(dtype="<f4,<f4"), "Item.dtype of 'x' is '<f4,<f4'"),
    (dict(nbytes=13), "Item.nbytes of 'x' is 13; shape [3] of <f4 takes 12"),
    (dict(shape=[1 << 62, 1 << 62], nbytes=16), "Item.nbytes of 'x' is 16"),
    (dict(shape=[1] * 65), "Item.shape of 'x' has 65 dimensions; at most 64 are allowed"),
    (dict(name=""), "Item.name has 0 characters"),
])
def test_announcements_are_checked(fields: dict[str, object], text: str) -> None:
    item = Item(**{**dict(name="x", dtype="<f4", shape=[3], nbytes=12), **fields})
    with pytest.raises(InvalidArgument) as caught:
        arrays.check_item(item)
    assert text in caught.value.message


def test_a_message_of_another_shape_is_refused() -> None:
    out = arrays.outgoing("x", np.array([b"a", b"b"], object))
    item = Item.FromString(out.item.SerializeToString())
    item.shape[:] = [3]
    with pytest.raises(InvalidArgument, match=r"Item\.shape of 'x' is \[3\]; its content is object of \[2\]"):
        arrays.incoming(item, out.content)


@given(st.sampled_from([name for name in dir(ml_dtypes) if name.startswith(("bfloat", "float8", "int4", "uint4"))]))
def test_types_that_numpy_lacks_go_by_name(name: str) -> None:
    array = np.arange(6).astype(getattr(ml_dtypes, name)).reshape(2, 3)
    assert same(twin(array), array)


def test_large_memory_comes_from_a_pool_and_goes_back() -> None:
    item = Item(name="x", dtype="|u1", shape=[4 * MIN_CAPACITY], nbytes=4 * MIN_CAPACITY)
    first = arrays.destination(item)
    address = first.ctypes.data
    del first
    assert arrays.destination(item).ctypes.data == address
    arrays.trim(0.0)


def test_arrays_in_shared_memory_are_known_as_such() -> None:
    array = segments.empty((1000, 100), np.float32, "F")
    array[...] = 1
    buffer = segments.buffer_of(array)
    assert buffer is not None and buffer.nbytes == array.nbytes
    assert segments.buffer_of(array.T) is buffer
    assert segments.buffer_of(array[1:]) is None
    assert segments.buffer_of(np.zeros(3)) is None
    with pytest.raises(TypeError, match="holds references"):
        segments.empty(3, object)
    with pytest.raises(ValueError, match="negative dimension"):
        segments.empty((3, -1))
