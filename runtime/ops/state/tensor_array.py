"""Tensor arrays: what the iterations of a loop in frames leave for each other within one step, beside `Stack`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from runtime._ext.errors import InvalidArgument, ResourceExhausted
from runtime._ext.step_arrays import Place, Places, Stack
from runtime.dtypes import DataType, to_numpy
from runtime.ops.partial_shapes import known, matches
from runtime.ops.shapes import format_shape

if TYPE_CHECKING:
    from runtime.ops.registry import Shape

__all__ = ["ARRAYS", "GRADIENTS", "MAX_ELEMENTS", "Stack", "TensorArray"]

ARRAYS, GRADIENTS = "_tensor_arrays", "_tensor_array_grads"
"""Containers of the running step's arrays; messages quote them."""

MAX_ELEMENTS = 1 << 26
"""Most elements of a tensor array or list: an index that some client makes up must not fill the memory."""


class TensorArray(Places):
    """An array of tensors of one type, each written once. Safe from several threads.

    Compiled kernels do the simple cases of reading and writing themselves (`_ext/kernels/step_arrays`).

    A gradient array is the exception: values written to the same index are added up, and an index that its source has
    but nobody has written to reads as zeros.

    Parameters
    ----------
    name : str
        For messages; unique in the process.
    element_type : DataType
    element_shape : shape
        What is known of all elements.
    size : int
        Elements at first.
    is_dynamic : bool
        Whether a write behind the end makes the array longer.
    clears : bool
        Whether an element is dropped when it is read.
    same_shapes : bool
        Whether the first write decides the shape of all elements.
    is_gradient : bool
    xp : module
        The array namespace that sums and zeros are made with.

    Attributes
    ----------
    gradients : dict of str to TensorArray
        By source; made by `gradient`.
    """

    def __init__(self, name: str, element_type: DataType, element_shape: Shape, size: int, *, is_dynamic: bool = False,
                 clears: bool = True, same_shapes: bool = False, is_gradient: bool = False, xp: Any) -> None:
        super().__init__(name, element_type, element_shape, is_dynamic=is_dynamic, clears=clears,
                         same_shapes=same_shapes, is_gradient=is_gradient)
        self._grow(size)
        self._xp = xp

    def __repr__(self) -> str:
        return f"<TensorArray {self.name} of {self.element_type.label} size {self.count}>"

    def size(self) -> int:
        """Return how many elements the array has.

        Raises
        ------
        InvalidArgument
            If it is closed.
        """
        with self.lock:
            self._check_open()
            return self.count

    def write(self, index: int, value: Any) -> None:
        """Put a value at an index; to a gradient's, add it there.

        Raises
        ------
        InvalidArgument
            If the index is out of range, its place has been written or read, or the value does not fit.
        """
        with self.lock:
            self._check_open()
            self._write(index, value)

    def write_all(self, indices: Sequence[int], values: Sequence[Any]) -> None:
        """Put one value at each index; those before the first that fails stay."""
        with self.lock:
            self._check_open()
            for index, value in zip(indices, values, strict=True):
                self._write(index, value)

    def read(self, index: int) -> Any:
        """Return the value at an index.

        Raises
        ------
        InvalidArgument
            If the index is out of range, unwritten and of unknown shape, or was cleared when it was read before.
        """
        with self.lock:
            self._check_open()
            return self._read(index)

    def read_all(self, indices: Sequence[int] | None) -> list[Any]:
        """Return the values at some indices; all of them for None."""
        with self.lock:
            self._check_open()
            return [self._read(index) for index in (range(self.count) if indices is None else indices)]

    def gradient(self, source: str, make: Callable[[str, int], TensorArray],
                 before: tuple[int, ...] = ()) -> TensorArray:
        """Return the array of gradients for a source, the same for every caller in the step.

        Parameters
        ----------
        source : str
            Tells apart the gradients of several losses.
        make : callable
            ``make(name, size)`` returns a new gradient array.
        before : tuple of int
            Dimensions that the gradients have before those of the elements.

        Raises
        ------
        InvalidArgument
            If this array is closed, or is itself one of gradients.
        """
        with self.lock:
            self._check_open()
            if self.is_gradient:
                raise InvalidArgument(f"Wrong input container. {GRADIENTS}{self.name}")
            self.is_dynamic = False  # a longer array would have elements without gradients
            found = self.gradients.get(source)
            if found is None:
                found = self.gradients[source] = make(f"{self.name}@{source}", self.count)
                for index, place in self.places.items():
                    if place.written and place.shape is not None:
                        other = found.places[index] = Place()
                        other.shape, other.written = (*before, *place.shape), True
            return found

    def close(self) -> None:
        """Drop all elements; from now on every use fails."""
        with self.lock:
            self.closed = True
            self.places.clear()

    def _check_open(self) -> None:
        if self.closed:
            raise InvalidArgument(f"TensorArray {self.name} has already been closed.")

    def _grow(self, size: int) -> None:
        if size > MAX_ELEMENTS:
            raise ResourceExhausted(f"TensorArray {self.name}: {size} elements are more than the {MAX_ELEMENTS} that a "
                                    "tensor array may have")
        self.count = size

    def _write(self, index: int, value: Any) -> None:
        if index < 0 or (index >= self.count and not self.is_dynamic):
            raise InvalidArgument(f"TensorArray {self.name}: Tried to write to index {index} but array is not "
                                  f"resizeable and size is: {self.count}")
        shape = value.shape
        if not matches(self.element_shape, shape):
            raise InvalidArgument(
                f"TensorArray {self.name}: Could not write to TensorArray index {index} because the value shape is "
                f"{format_shape(shape)} which is incompatible with the TensorArray's inferred element shape: "
                f"{format_shape(self.element_shape)} (consider setting infer_shape=False).")
        if index >= self.count:
            self._grow(index + 1)
        if self.same_shapes and self.element_shape != shape:
            self.element_shape = shape
        place = self._place(index)
        if place.read:
            raise self._unwritable(index, "because it has already been read.")
        if not place.written:
            place.value, place.shape, place.written = value, shape, True
        elif self.is_gradient:
            self._add(index, place, value)
        else:
            raise self._unwritable(index, "because it has already been written to.")

    def _unwritable(self, index: int, why: str) -> InvalidArgument:
        return InvalidArgument(f"TensorArray {self.name}: Could not write to TensorArray index {index} {why}")

    def _add(self, index: int, place: Place, value: Any) -> None:
        if place.shape != value.shape:
            raise InvalidArgument(f"TensorArray {self.name}: Could not aggregate to TensorArray index {index} because "
                                  f"the existing shape is {format_shape(place.shape)} but the new input shape is "
                                  f"{format_shape(value.shape)}.")
        if place.value is None or not value.size:
            place.value = value
            return
        if place.is_own:
            self._xp.add(place.value, value, out=place.value)
        else:
            # a scalar sum comes as a numpy scalar, which cannot be added to in place
            place.value = self._xp.asarray(self._xp.add(place.value, value))
            place.is_own = True

    def _place(self, index: int) -> Place:
        found = self.places.get(index)
        if found is None:
            found = self.places[index] = Place()
        return found

    def _read(self, index: int) -> Any:
        if index < 0 or (index >= self.count and not self.is_gradient):
            raise InvalidArgument(f"Tried to read from index {index} but array size is: {self.count}")
        place = self._place(index)
        if not place.written:
            shape = known(self.element_shape)
            if shape is None:
                raise self._unreadable(index)
            place.shape, place.written = shape, True
        if place.cleared:
            raise InvalidArgument(f"TensorArray {self.name}: Could not read index {index} twice because it was cleared "
                                  "after a previous read (perhaps try setting clear_after_read = false?).")
        if place.value is None:
            assert place.shape is not None
            place.value = self._zeros(place.shape)
        place.read = True
        value = place.value
        if self.clears:
            place.value, place.cleared = None, True
        return value

    def _unreadable(self, index: int) -> InvalidArgument:
        return InvalidArgument(f"TensorArray {self.name}: Could not read from TensorArray index {index}.  "
                               "Furthermore, the element shape is not fully defined: "
                               f"{format_shape(self.element_shape)}.  It is possible you are working with a resizeable "
                               "TensorArray and stop_gradients is not allowing the gradients to be written.  If you "
                               "set the full element_shape property on the forward TensorArray, the proper all-zeros "
                               "tensor will be returned instead of incurring this error.")

    def _zeros(self, shape: tuple[int, ...]) -> Any:
        dtype = to_numpy(self.element_type)
        return self._xp.full(shape, b"", dtype=object) if dtype.kind == "O" else self._xp.zeros(shape, dtype)
