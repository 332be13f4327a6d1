"""Iterators as steps know them: resources that are given a dataset and hand out its elements."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from runtime import wire
from runtime._ext.errors import Error, FailedPrecondition, InvalidArgument, OutOfRange
from runtime._ext.variable import ResourceHandle
from runtime.ops.datasets.dataset import Dataset, Signature, dataset_of
from runtime.ops.datasets.iteration import Iteration
from runtime.ops.handles import finder, handle_array, make_handle, resource_place
from runtime.ops.objects import map_objects, object_scalar
from runtime.ops.registry import kernel
from runtime.ops.shapes import scalar
from runtime.ops.values.optional import Optional

if TYPE_CHECKING:
    from runtime._ext.executor import StepContext
    from runtime.graph.node import Node
    from runtime.ops.registry import Shape
    from runtime.step.environment import CompiledFunction, KernelEnv, SessionState

__all__ = ["ITERATOR", "IteratorResource", "marked", "outputs_of"]

Run = Callable[..., Any]
Answer = Callable[[Any, "BaseException | None"], None]

ITERATOR = "N10tensorflow4data16IteratorResourceE"
"""Kind of an iterator in the resource manager, as TensorFlow's handles have it."""


class IteratorResource:
    """Hands out the elements of the dataset that it was last given.

    Parameters
    ----------
    signature : Signature
        What the elements must be.

    Notes
    -----
    Safe from several threads.
    """

    def __init__(self, signature: Signature) -> None:
        self.signature = signature
        self._iteration: Iteration | None = None
        self._lock = threading.Lock()

    def begin(self, dataset: Dataset, state: SessionState) -> None:
        """Read a dataset from its beginning; whoever waits for an element of the one before still gets it.

        Raises
        ------
        InvalidArgument
            If its elements are of the wrong kind.
        """
        self.signature.check(dataset.signature)
        made = Iteration(dataset, state)
        with self._lock:
            former, self._iteration = self._iteration, made
        if former is not None:
            former.retire()

    def next(self, step: StepContext, done: Answer) -> None:
        """Read on: ``done(element, None)``, with None for the element at the end.

        Raises
        ------
        FailedPrecondition
            If there is no dataset yet.
        """
        iteration = self._iteration
        if iteration is None:
            raise FailedPrecondition("GetNext() failed because the iterator has not been initialized. Ensure that you "
                                     "have run the initializer operation for this iterator before getting the next "
                                     "element.")
        iteration.pull(step, done, owner=self)  # the last handle may go meanwhile

    def close(self) -> None:
        """End what is under way."""
        with self._lock:
            iteration, self._iteration = self._iteration, None
        if iteration is not None:
            iteration.close()

    def __del__(self) -> None:
        self.close()


def _iterator_finder(env: KernelEnv) -> Callable[[Any], IteratorResource]:
    return finder(env, IteratorResource, ITERATOR, "an iterator")


@kernel("Iterator", "IteratorV2", shape=scalar)
def _iterator(node: Node, env: KernelEnv) -> Run:
    signature = Signature.of(node)
    place = resource_place(node, env, ITERATOR)
    found = env.session.resources.lookup_or_create(place[0], ITERATOR, place[1], lambda: IteratorResource(signature))
    signature.check(found.signature)
    handle = make_handle(node, env, place, ITERATOR, found)
    return lambda: handle


@kernel("AnonymousIterator", "AnonymousIteratorV2", "AnonymousIteratorV3", shape=scalar)
def _anonymous_iterator(node: Node, env: KernelEnv) -> Run:
    signature, session, device = Signature.of(node), env.session, env.device.name
    has_deleter = len(node.output_types) == 2

    def run() -> Any:
        made = IteratorResource(signature)
        handle = handle_array(ResourceHandle(device, session.resources.default_container,
                                             session.private_name("AnonymousIterator"), ITERATOR, made))
        return [handle, object_scalar(None)] if has_deleter else handle

    return run


@kernel("DeleteIterator")
def _delete_iterator(node: Node, env: KernelEnv) -> Run:
    find = _iterator_finder(env)

    def run(handle: Any, deleter: Any) -> None:
        find(handle).close()

    return run


@kernel("OneShotIterator", shape=scalar, asynchronous=True)
def _one_shot_iterator(node: Node, env: KernelEnv) -> Run:
    signature = Signature.of(node)
    factory = env.compile_function(node.attr("dataset_factory"))
    place = resource_place(node, env, ITERATOR)
    shot = env.session.resources.lookup_or_create(place[0], ITERATOR, place[1],
                                                  lambda: _OneShotIterator(signature))
    handle = make_handle(node, env, place, ITERATOR, shot)
    state = env.session

    def run(step: StepContext, done: Answer) -> None:
        shot.prepare(step, factory, state, lambda error: done(None if error is not None else handle, error))

    return run


class _OneShotIterator(IteratorResource):
    """An iterator whose dataset is made by a function, once, when it is first asked for."""

    def __init__(self, signature: Signature) -> None:
        super().__init__(signature)
        self._is_ready = False
        self._waiting: list[Callable[[BaseException | None], None]] | None = None

    def prepare(self, step: StepContext, factory: CompiledFunction, state: SessionState,
                done: Callable[[BaseException | None], None]) -> None:
        """See to it that the dataset is there: ``done(None)``, or ``done(error)`` and the next call tries again."""
        with self._lock:
            ready, first = self._is_ready, self._waiting is None
            if not ready:
                self._waiting = [*(self._waiting or ()), done]
        if ready:
            done(None)
        elif first:
            factory.start(step, (), lambda outputs, error: self._made(outputs, error, state))

    def _made(self, outputs: list[Any] | None, error: BaseException | None, state: SessionState) -> None:
        if error is None:
            try:
                if outputs is None or len(outputs) != 1:
                    raise InvalidArgument("The `dataset_factory` function must return a single variant tensor.")
                self.begin(dataset_of(outputs[0]), state)
            except Error as problem:
                error = problem
        with self._lock:
            self._is_ready = error is None
            waiting, self._waiting = self._waiting or [], None
        for done in waiting:
            done(error)


@kernel("MakeIterator")
def _make_iterator(node: Node, env: KernelEnv) -> Run:
    find, state = _iterator_finder(env), env.session

    def run(dataset: Any, iterator: Any) -> None:
        find(iterator).begin(dataset_of(dataset), state)

    return run


# Elements


def _declared(node: Node, shapes: Sequence[Shape]) -> Sequence[Shape]:
    return list(node.attr("output_shapes"))


def outputs_of(element: Sequence[Any], signature: Signature) -> Any:
    """Return an element as a kernel returns its outputs.

    Raises
    ------
    InvalidArgument
        If its components are not what the node declares.
    """
    kinds = [component.dtype for component in element]
    if len(kinds) != len(signature.types):
        raise InvalidArgument(f"Number of components does not match: expected {len(signature.types)} types but got "
                              f"{len(kinds)}.")
    Signature(signature.types, signature.shapes).check(
        Signature(signature.types, tuple(component.shape for component in element)))
    return element[0] if len(element) == 1 else list(element)


def marked(error: BaseException, node: Node) -> BaseException:
    """Return the error of a user function, in which that function's node is named, with the node that asked."""
    if isinstance(error, Error) and "[[{{node " in error.message:
        return type(error)(f"{error.message}\n\t [[{node.name}]]")
    return error


@kernel("IteratorGetNext", "IteratorGetNextSync", shape=_declared, asynchronous=True)
def _get_next(node: Node, env: KernelEnv) -> Run:
    find, signature = _iterator_finder(env), Signature.of(node)

    def run(step: StepContext, done: Answer, iterator: Any) -> None:
        resource = find(iterator)
        signature.check(resource.signature)

        def finish(element: Any, error: BaseException | None) -> None:
            result = None
            if error is None:
                try:
                    if element is None:
                        raise OutOfRange("End of sequence")
                    result = outputs_of(element, signature)
                except Error as problem:
                    error = problem
            done(result, None if error is None else marked(error, node))

        resource.next(step, finish)

    return run


@kernel("IteratorGetNextAsOptional", shape=scalar, asynchronous=True)
def _get_next_as_optional(node: Node, env: KernelEnv) -> Run:
    find, signature = _iterator_finder(env), Signature.of(node)

    def run(step: StepContext, done: Answer, iterator: Any) -> None:
        resource = find(iterator)
        signature.check(resource.signature)

        def finish(element: Any, error: BaseException | None) -> None:
            if error is not None:
                done(None, marked(error, node))
                return
            found = Optional() if element is None else Optional(element, signature.types)
            done(object_scalar(found), None)

        resource.next(step, finish)

    return run


# Handles as text


@kernel("IteratorToStringHandle", shape=scalar)
def _to_string_handle(node: Node, env: KernelEnv) -> Run:
    find = _iterator_finder(env)

    def run(handle: Any) -> Any:
        find(handle)
        return map_objects(lambda item: item.to_wire(), handle)

    return run


@kernel("IteratorFromStringHandle", "IteratorFromStringHandleV2", shape=scalar)
def _from_string_handle(node: Node, env: KernelEnv) -> Run:
    types, shapes = tuple(node.attr("output_types")), tuple(node.attr("output_shapes"))
    if types and shapes and len(types) != len(shapes):
        raise InvalidArgument("If both 'output_types' and 'output_shapes' are set, they must have the same length.")
    here, resources = env.device.name, env.session.resources

    def run(text: Any) -> Any:
        if text.ndim:
            raise InvalidArgument("string_handle must be a scalar")
        try:
            proto = wire.ResourceHandleProto.FromString(text.item())
        except Exception:
            raise InvalidArgument("Could not parse string_handle as a valid ResourceHandle") from None
        if proto.device != here:
            raise InvalidArgument(f"Attempted create an iterator on device \"{here}\" from handle defined on device "
                                  f"\"{proto.device}\"")
        found = resources.lookup(proto.container, ITERATOR, proto.name)
        if types:
            Signature(types, shapes or (None,) * len(types)).check(found.signature)
        return handle_array(ResourceHandle(here, proto.container, proto.name, ITERATOR, found))

    return run


@kernel("DatasetCardinality", shape=scalar)
def _cardinality(node: Node, env: KernelEnv) -> Run:
    return lambda dataset: np.int64(dataset_of(dataset).cardinality())
