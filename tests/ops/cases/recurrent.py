"""Cases of CTC, of LSTM blocks, and of batch normalisation as old graphs have it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from tests.ops.case import Case, op_case
from tests.ops.cases.arrays import ints
from tests.ops.values import values

BEFORE_REMOVAL = 8
"""The last version of a GraphDef that may hold the old batch normalisation."""


def cases() -> Iterator[Case]:
    """Yield the cases."""
    yield from _losses()
    yield from _wrong_losses()
    yield from _decoded()
    yield from _blocks()
    yield from _block_gradients()
    yield from _global_normalization()


def _sparse(*rows: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Return the indices and values of label sequences."""
    indices = [[row, column] for row, labels in enumerate(rows) for column, _ in enumerate(labels)]
    return (np.array(indices, np.int64).reshape(-1, 2),
            np.array([label for labels in rows for label in labels], np.int32))


SWITCHES: tuple[dict[str, bool], ...] = (
    {}, {"preprocess_collapse_repeated": True}, {"ctc_merge_repeated": False},
    {"ignore_longer_outputs_than_inputs": True},
)


def _losses() -> Iterator[Case]:
    label_rows = ((0, 1), (2, 2, 1), (3,))
    for kind, close in ((np.float32, 2e-5), (np.float64, 1e-7)):  # TensorFlow sums logarithms of both in float
        for switches in SWITCHES:
            for lengths in ((7, 7, 7), (3, 6, 1), (5, 4, 0)):
                yield op_case("CTCLoss", values(kind, (7, 3, 5)), *_sparse(*label_rows), ints(*lengths),
                              name=str(lengths), relative=close, absolute=close, **switches)
    x = values(np.float32, (6, 2, 4))
    close = 2e-5
    # A sequence of blanks alone is left out: TensorFlow reads beside its arrays there.
    for label, rows in (("blank", ((0, 1), (2, 3))), ("beyond", ((0, 9), (1,))),
                        ("tight", ((0, 1, 0, 1, 0, 2), (1, 1, 1)))):
        yield op_case("CTCLoss", x, *_sparse(*rows), ints(6, 4), name=label, relative=close, absolute=close)
    unreachable = x.copy()
    unreachable[:, 1, 1] = -np.inf
    yield op_case("CTCLoss", unreachable, *_sparse((0,), (1,)), ints(6, 4), name="unreachable", relative=close,
                  absolute=close)
    yield op_case("CTCLoss", x * 50, *_sparse((0, 2), (1,)), ints(6, 6), name="certain", relative=1e-4, absolute=1e-4)
    long = np.random.default_rng(1).integers(0, 9, 30).tolist()
    yield op_case("CTCLoss", values(np.float32, (80, 2, 10)), *_sparse(tuple(long), tuple(long[:12])), ints(80, 50),
                  name="long", relative=1e-4, absolute=1e-4)


def _wrong_losses() -> Iterator[Case]:
    x = values(np.float32, (5, 2, 4))
    for label, rows, lengths in (("no labels", ((0, 1), ()), (5, 4)), ("negative", ((0,), (-1,)), (5, 4)),
                                 ("after blank", ((3, 1), (1,)), (5, 4)), ("length", ((0,), (1,)), (5, 6)),
                                 ("negative length", ((0,), (1,)), (5, -1)), ("few lengths", ((0,), (1,)), (5,)),
                                 ("no time", ((0,), (0, 1, 0, 1, 0, 1)), (5, 5))):
        yield op_case("CTCLoss", x, *_sparse(*rows), ints(*lengths), name=label)
    indices, labels = _sparse((0,), (1,))
    yield op_case("CTCLoss", x, indices[::-1].copy(), labels, ints(5, 5), name="order")
    yield op_case("CTCLoss", x, indices + [[0, 0], [4, 0]], labels, ints(5, 5), name="bounds")
    yield op_case("CTCLoss", x, indices[:1], labels, ints(5, 5), name="count")
    yield op_case("CTCLoss", x[:, :0], indices[:0], labels[:0], ints(), name="no batch")
    yield op_case("CTCLoss", x[0], indices, labels, ints(5, 5), text=False)


def _decoded() -> Iterator[Case]:
    for kind in (np.float32, np.float64):
        x = np.round(values(kind, (9, 3, 4)))  # so that labels repeat
        for merge in (False, True):
            for blank in (-1, 0, 2, -4):
                for lengths in ((9, 5, 0), (1, -1, 9)):
                    yield op_case("CTCGreedyDecoder", x, ints(*lengths), name=str(lengths), merge_repeated=merge,
                                  blank_index=blank)
    x = values(np.float32, (5, 2, 4))
    for blank in (4, -5):
        yield op_case("CTCGreedyDecoder", x, ints(5, 5), blank_index=blank)
    yield op_case("CTCGreedyDecoder", x, ints(0, 0))
    for lengths in (ints(5, 6), ints(5), ints(5, 5).reshape(1, 2)):
        yield op_case("CTCGreedyDecoder", x, lengths, text=lengths.ndim == 1)
    yield op_case("CTCGreedyDecoder", x[0], ints(5, 5), text=False)


def _block(kind: Any, steps: int, batch: int, inputs: int, cells: int) -> list[np.ndarray]:
    shapes = ((steps, batch, inputs), (batch, cells), (batch, cells), (inputs + cells, 4 * cells), (cells,), (cells,),
              (cells,), (4 * cells,))
    return [values(kind, shape, seed, -1, 1) for seed, shape in enumerate(shapes)]


def _first_steps(count: int, close: float) -> Any:
    """Return a comparison of what was computed: TensorFlow leaves the other steps of some results unset."""
    def compare(ours: list[np.ndarray], theirs: list[np.ndarray]) -> str:
        for number, (mine, other) in enumerate(zip(ours, theirs, strict=True)):
            if mine.shape != other.shape:
                return f"output {number}: the shape is {mine.shape}, TensorFlow's {other.shape}"
            if not np.allclose(mine[:count].astype(float), other[:count].astype(float), rtol=close, atol=close):
                return f"output {number} is {mine[:count]}, TensorFlow's {other[:count]}"
            if mine[count:].any():
                return f"output {number} is not zero after step {count}"
        return ""

    return compare


def _blocks() -> Iterator[Case]:
    for op in ("BlockLSTM", "BlockLSTMV2"):
        for kind, close in ((np.float32, 1e-5), (np.float16, 1e-2)):
            for peephole in (False, True):
                for clip in (0.0, 0.3):
                    for count in (5, 3):
                        yield op_case(op, np.array(count, np.int64), *_block(kind, 5, 2, 3, 4), use_peephole=peephole,
                                      cell_clip=clip, name=f"{count}", compare=_first_steps(count, close))
        yield op_case(op, np.array(2, np.int64), *_block(np.float32, 2, 1, 6, 1), compare=_first_steps(2, 1e-5))
        good = _block(np.float32, 2, 3, 4, 5)
        for place, cut in ((0, 0), (1, 1), (2, 1), (3, 1), (3, 0), (7, 0)):
            wrong = list(good)
            wrong[place] = wrong[place][0] if (place, cut) == (0, 0) else wrong[place].take(range(2), axis=cut)
            yield op_case(op, np.array(2, np.int64), *wrong, text=False)
    yield op_case("BlockLSTM", np.array(3, np.int64), *_block(np.float32, 3, 2, 3, 4), forget_bias=0.25, cell_clip=-1.0,
                  compare=_first_steps(3, 1e-5))


def _block_gradients() -> Iterator[Case]:
    for kind, close in ((np.float32, 2e-5), (np.float16, 2e-2)):
        for peephole in (False, True):
            for count in (5, 3):
                blocks = [values(kind, (5, 2, 4), seed, 0, 1) for seed in range(9)]
                yield op_case("BlockLSTMGrad", np.array(count, np.int64), *_block(kind, 5, 2, 3, 4), *blocks,
                              use_peephole=peephole, name=f"{count}", relative=close, absolute=close)


def _global_normalization() -> Iterator[Case]:
    for kind, close in ((np.float32, 1e-5), (np.float16, 2e-2)):
        x, grad = values(kind, (2, 3, 4, 5), 1), values(kind, (2, 3, 4, 5), 2)
        mean, gamma, beta = (values(kind, (5,), seed) for seed in (3, 4, 5))
        variance = values(kind, (5,), 6, 0.5, 2)
        for scales in (False, True):
            options: dict[str, Any] = {"variance_epsilon": 0.01, "scale_after_normalization": scales,
                                       "producer": BEFORE_REMOVAL, "relative": close, "absolute": close}
            yield op_case("BatchNormWithGlobalNormalization", x, mean, variance, beta, gamma, **options)
            yield op_case("BatchNormWithGlobalNormalizationGrad", x, mean, variance, gamma, grad, **options)
    options = {"variance_epsilon": 0.01, "scale_after_normalization": True, "producer": BEFORE_REMOVAL, "text": False}
    yield op_case("BatchNormWithGlobalNormalization", x[0], mean, variance, beta, gamma, **options)
    yield op_case("BatchNormWithGlobalNormalizationGrad", x[0], mean, variance, gamma, grad, **options)
