"""Connectionist temporal classification: the loss of label sequences without an alignment, and the greedy decoder.

The last class is the blank. Sums over alignments follow A. Graves, "Supervised Sequence Labelling with Recurrent Neural
Networks" (2012), chapter 7, in logarithms and double precision, for all sequences of a batch at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from runtime._ext.errors import FailedPrecondition, InvalidArgument
from runtime.ops.registry import Shape, kernel
from runtime.ops.shapes import format_shape

if TYPE_CHECKING:
    from runtime._ext.executor import StepContext
    from runtime.graph.node import Node
    from runtime.step.environment import KernelEnv

Array = np.ndarray[Any, Any]


def _check_lengths(inputs: Any, lengths: Any, error: type[InvalidArgument] | type[FailedPrecondition]) -> None:
    if inputs.ndim != 3:
        raise InvalidArgument("inputs is not a 3-Tensor")
    if lengths.ndim != 1:
        raise InvalidArgument("sequence_length is not a vector")
    if lengths.shape[0] != inputs.shape[1]:
        raise error("len(sequence_length) != batch_size.  len(sequence_length):  "
                    f"{lengths.shape[0]} batch_size: {inputs.shape[1]}")
    for batch, length in enumerate(lengths.tolist()):
        if length > inputs.shape[0]:
            raise error(f"sequence_length({batch}) <= {inputs.shape[0]}")


# --- the loss --------------------------------------------------------------------------------------------------------


def _loss_shape(node: Node, shapes: Sequence[Shape]) -> Sequence[Shape]:
    inputs = shapes[0]
    return [None if inputs is None or len(inputs) != 3 else (inputs[1],), inputs]


@kernel("CTCLoss", shape=_loss_shape, host=(0, 1, 2, 3), needs_step=True)
def _ctc_loss(node: Node, env: KernelEnv) -> Callable[..., Any]:
    xp = env.xp
    collapse, merge = bool(node.attr("preprocess_collapse_repeated")), bool(node.attr("ctc_merge_repeated"))
    ignore_long = bool(node.attr("ignore_longer_outputs_than_inputs"))

    def run(step: StepContext, inputs: Any, indices: Any, values: Any, lengths: Any) -> Any:
        _check_lengths(inputs, lengths, InvalidArgument)
        count, batch, classes = inputs.shape
        if not batch:
            raise InvalidArgument("batch_size must not be 0")
        rows = _label_rows(indices, values, batch)
        labels = [_proper(row, number, classes, collapse) for number, row in enumerate(rows)]
        for number, (length, row) in enumerate(zip(lengths.tolist(), labels, strict=True)):
            if length < 0:
                raise InvalidArgument(f"seq_len({number}) < 0")
            if not ignore_long and len(row) > length:
                raise InvalidArgument(f"Not enough time for target transition sequence (required: {len(row)}, "
                                      f"available: {length}){number}You can turn this error into a warning by using "
                                      "the flag ignore_longer_outputs_than_inputs")
        skipped = np.array([len(row) > length for row, length in zip(labels, lengths.tolist(), strict=True)])
        loss, gradient = ctc_loss(inputs, labels, np.where(skipped, 0, lengths), merge, step.check)
        return xp.asarray(loss), xp.asarray(gradient)

    return run


def _label_rows(indices: Any, values: Any, batch: int) -> list[list[int]]:
    """Return the labels of every sequence."""
    if indices.ndim != 2:
        raise InvalidArgument("labels_indices is not a matrix")
    if values.ndim != 1:
        raise InvalidArgument("labels_values is not a vector")
    if indices.shape[0] != values.shape[0]:
        raise InvalidArgument("labels_indices and labels_values must contain the same number of rows, but saw shapes: "
                              f"{format_shape(indices.shape)} vs. {format_shape(values.shape)}")
    if indices.shape[1] != 2:
        raise InvalidArgument(f"labels_indices must have two columns, got shape {format_shape(indices.shape)}")
    rows: list[list[int]] = [[] for _ in range(batch)]
    limits = (batch, max(int(indices[:, 1].max(initial=-1)) + 1, 0))
    former = (-1, -1)
    for place, ((row, column), label) in enumerate(zip(indices.tolist(), values.tolist(), strict=True)):
        where = f"label SparseTensor is not valid: indices[{place}] = [{row},{column}] is"
        if not (0 <= row < limits[0] and 0 <= column < limits[1]):
            raise InvalidArgument(f"{where} out of bounds: need 0 <= index < {format_shape(limits)}")
        if (row, column) == former:
            raise InvalidArgument(f"{where} repeated")
        if (row, column) < former:
            raise InvalidArgument(f"{where} out of order. Many sparse ops require sorted indices.\n    Use "
                                  "`tf.sparse.reorder` to create a correctly ordered copy.\n\n")
        former = (row, column)
        rows[row].append(label)
    return rows


def _proper(row: list[int], number: int, classes: int, collapse: bool) -> list[int]:
    """Return the labels of a sequence up to the first that is the blank or beyond."""
    if not row:
        raise InvalidArgument(f"Labels length is zero in batch {number}")
    labels: list[int] = []
    ended = False
    for place, label in enumerate(row):
        if collapse and place and label == row[place - 1]:
            continue
        if label >= classes - 1:
            ended = True
        elif ended:
            raise InvalidArgument("Saw a non-null label (index >= num_classes - 1) following a null label, batch: "
                                  f"{number} num_classes: {classes} labels: {','.join(map(str, row))} labels seen so "
                                  f"far: {','.join(map(str, labels))}")
        else:
            labels.append(label)
    if any(label < 0 for label in labels):
        raise InvalidArgument(f"All labels must be nonnegative integers, batch: {number} labels: "
                              f"{','.join(map(str, labels))}")
    return labels


def ctc_loss(inputs: Array, labels: Sequence[Sequence[int]], lengths: Array, merge: bool,
             check: Callable[[], Any]) -> tuple[Array, Array]:
    """Return the losses and their gradient.

    Parameters
    ----------
    inputs : ndarray of float, shape (time, batch, classes)
        Logits; the last class is the blank.
    labels : sequence of sequences of int
        Per sequence, each below ``classes - 1``.
    lengths : ndarray of int, shape (batch,)
        How much of the time belongs to each sequence; one of length 0 has no loss and no gradient.
    merge : bool
        Whether a label that is repeated without a blank counts once.
    check : callable
        Called now and then; may raise to stop.

    Returns
    -------
    loss : ndarray, shape (batch,)
        Infinite where no alignment is possible.
    gradient : ndarray, shape (time, batch, classes)
    """
    count, batch, classes = inputs.shape
    logits = inputs.astype(np.float64)
    shifted = np.exp(logits - logits.max(axis=2, keepdims=True)) if count and classes else logits
    chances = shifted / shifted.sum(axis=2, keepdims=True)
    # Blanks around and between the labels; what is beyond a shorter sequence is never reached.
    states = np.array([2 * len(row) + 1 for row in labels])
    most = int(states.max())
    path = np.full((batch, most), classes - 1)
    for row, sequence in zip(path, labels, strict=True):
        row[1:2 * len(sequence):2] = sequence
    numbers = np.arange(most)
    label_state = path != classes - 1
    stays = np.ones_like(label_state) if merge else ~label_state
    skips = label_state & (numbers >= 2)
    if merge:
        skips[:, 2:] &= path[:, 2:] != path[:, :-2]
    there = numbers < states[:, None]
    steps = np.log(np.take_along_axis(chances, np.broadcast_to(path, (count, batch, most)), axis=2))
    steps = np.where(there, steps, -np.inf)

    def guard(allowed: Array, value: Array | float) -> Array:
        return np.where(allowed, value, -np.inf)

    def moved(value: Array, by: int) -> Array:
        result = np.full_like(value, -np.inf)
        if by > 0:
            result[:, by:] = value[:, :-by]
        else:
            result[:, :by] = value[:, -by:]
        return result

    forward = np.full((count, batch, most), -np.inf)
    for time in range(count):
        check()
        if time == 0:
            forward[0] = guard(numbers < 2, steps[0])
            continue
        former = forward[time - 1]
        total = np.logaddexp(guard(stays, former), moved(former, 1))
        forward[time] = np.logaddexp(total, guard(skips, moved(former, 2))) + steps[time]
    ends = there & (numbers >= states[:, None] - 2)
    backward = np.full((count, batch, most), -np.inf)
    for time in range(count - 1, -1, -1):
        check()
        last = (lengths == time + 1)[:, None]
        if time + 1 < count:
            later = backward[time + 1] + steps[time + 1]
            total = np.logaddexp(guard(stays, later), moved(later, -1))
            backward[time] = np.logaddexp(total, moved(guard(skips, later), -2))
        backward[time] = np.where(last, guard(ends, 0.0), backward[time])
    through = forward + backward
    largest = through.max(axis=2, initial=-np.inf)
    scale = np.where(np.isfinite(largest), largest, 0)
    likelihood = scale + np.log(np.exp(through - scale[..., None]).sum(axis=2))
    final = np.full(batch, -np.inf)
    used = lengths > 0
    final[used] = likelihood[lengths[used] - 1, np.flatnonzero(used)]
    return _results(inputs, chances, path, through, final, lengths)


def _results(inputs: Array, chances: Array, path: Array, through: Array, final: Array,
             lengths: Array) -> tuple[Array, Array]:
    count, batch, classes = inputs.shape
    impossible = np.isneginf(final)
    share = np.exp(through - np.where(impossible, 0, final)[None, :, None])
    places = (np.arange(count)[:, None] * batch + np.arange(batch))[..., None] * classes + path
    taken = np.bincount(places.reshape(-1), share.reshape(-1), count * batch * classes).reshape(inputs.shape)
    gradient = chances - np.where(impossible[None, :, None], 0, taken)
    inside = (np.arange(count)[:, None] < lengths)[..., None]
    loss = np.where(lengths > 0, -final, 0)
    return loss.astype(inputs.dtype), np.where(inside, gradient, 0).astype(inputs.dtype)


# --- the greedy decoder ----------------------------------------------------------------------------------------------


def _decoded_shape(node: Node, shapes: Sequence[Shape]) -> Sequence[Shape]:
    inputs = shapes[0]
    return [(None, 2), (None,), (2,), (None if inputs is None or len(inputs) != 3 else inputs[1], 1)]


@kernel("CTCGreedyDecoder", shape=_decoded_shape)
def _ctc_greedy_decoder(node: Node, env: KernelEnv) -> Callable[..., Any]:
    xp = env.xp
    merge, blank_index = bool(node.attr("merge_repeated")), int(node.attr("blank_index"))

    def run(inputs: Any, lengths: Any) -> Any:
        _check_lengths(inputs, lengths, FailedPrecondition)
        count, batch, classes = inputs.shape
        if not -classes <= blank_index < classes:
            raise InvalidArgument(f"blank_index expected to be between {-classes} and {classes - 1} but was "
                                  f"{blank_index}")
        if not batch or not count:
            return (xp.zeros((0, 2), xp.int64), xp.zeros(0, xp.int64), xp.asarray(np.array([batch, 0])),
                    xp.zeros((batch, 1), inputs.dtype))
        blank = blank_index % classes
        best = inputs.argmax(axis=2).T
        inside = xp.arange(count) < lengths[:, None]
        kept = inside & (best != blank)
        if merge:
            kept[:, 1:] &= best[:, 1:] != best[:, :-1]
        chances = xp.where(inside, inputs.max(axis=2).T, 0).sum(axis=1, keepdims=True, dtype=inputs.dtype)
        rows, times = xp.nonzero(kept)
        places = xp.cumsum(kept, axis=1)[rows, times] - 1
        longest = int(kept.sum(axis=1).max())
        return (xp.stack((rows, places), axis=1).astype(xp.int64), best[rows, times].astype(xp.int64),
                xp.asarray(np.array([batch, longest])), -chances)

    return run
