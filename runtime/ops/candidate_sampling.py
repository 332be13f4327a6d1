"""Candidate samplers: classes drawn for a loss over many classes, with the counts to be expected.

The values are TensorFlow's for the same seeds. A sampler reads words of the stream of its node, as many as it needs;
every run reserves the same number of blocks, whatever it uses.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from runtime._ext.errors import InvalidArgument, NotFound
from runtime._ext.philox import Philox
from runtime.ops.random import Stream, stream_of
from runtime.ops.registry import kernel
from runtime.ops.transfer import as_numpy

if TYPE_CHECKING:
    from runtime._ext.executor import StepContext
    from runtime.graph.node import Node
    from runtime.ops.registry import Shape
    from runtime.step.environment import KernelEnv

__all__ = ["Words", "draw_classes"]

Run = Callable[..., Any]
Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]

_BLOCKS_PER_CLASS = 512
_MOST_TRIES = 1 << 18
"""Classes that are drawn at once while distinct ones are looked for; between two such draws a step can be cancelled."""
_INT32_MAX = 2**31 - 1
_FLOAT_MAX = float(np.finfo(np.float32).max)


class Words:
    """Hands out the words of a stream in order."""

    def __init__(self, generator: Philox) -> None:
        self._generator = generator
        self._left = np.zeros(0, np.uint32)

    def take(self, count: int) -> npt.NDArray[np.uint32]:
        """Return the next `count` words."""
        missing = count - self._left.size
        if missing > 0:
            blocks = -(-missing // 4)
            fresh = self._generator.reserve(blocks).words(4 * blocks)
            self._left = np.concatenate([self._left, fresh]) if self._left.size else fresh
        taken, self._left = self._left[:count], self._left[count:]
        return taken

    def doubles(self, count: int) -> npt.NDArray[np.float64]:
        """Return numbers in [0, 1) of 52 bits, two words each."""
        pairs = self.take(2 * count).astype(np.uint64).reshape(-1, 2)
        whole = (pairs[:, 0] & np.uint64(0xFFFFF)) << np.uint64(32) | pairs[:, 1]
        return whole.astype(np.float64) * 2.0**-52

    def below(self, limit: int, count: int, bits: int) -> Integers:
        """Return whole numbers in [0, limit), of as many `bits` (32 or 64) each; what would favour some is drawn
        again."""
        found = np.zeros(0, np.int64)
        while found.size < count:
            drawn = self._integers(count - found.size, bits)
            if limit & (limit - 1):
                drawn = drawn[drawn >= (2**bits - 1) % limit + 1]
            found = np.concatenate([found, (drawn % np.uint64(limit)).astype(np.int64)])
        return found

    def _integers(self, count: int, bits: int) -> npt.NDArray[np.uint64]:
        if bits == 32:
            return self.take(count).astype(np.uint64)
        pairs = self.take(2 * count).astype(np.uint64).reshape(-1, 2)
        return pairs[:, 0] | pairs[:, 1] << np.uint64(32)


class Sampler(Protocol):
    """How classes are drawn, and how likely each is."""

    range: int

    def draw(self, words: Words, count: int) -> Integers:
        """Return `count` classes."""

    def probability(self, classes: Integers) -> Floats:
        """Return the probability of each class, with the classes' shape."""

    def update(self, classes: Integers) -> None:
        """Learn from the true classes of a run."""


class _Uniform:
    def __init__(self, limit: int) -> None:
        self.range = limit

    def draw(self, words: Words, count: int) -> Integers:
        return words.below(self.range, count, 64)

    def probability(self, classes: Integers) -> Floats:
        return np.full(classes.shape, 1.0 / self.range, np.float32)

    def update(self, classes: Integers) -> None:
        pass


class _LogUniform:
    """Class k has the probability log((k + 2) / (k + 1)) / log(range + 1): Zipf's law for classes by frequency."""

    def __init__(self, limit: int) -> None:
        self.range = limit
        self._scale = math.log1p(limit)

    def draw(self, words: Words, count: int) -> Integers:
        drawn = np.exp(words.doubles(count) * self._scale).astype(np.int64) - 1
        return drawn % self.range

    def probability(self, classes: Integers) -> Floats:
        return (np.log((classes + 2.0) / (classes + 1.0)) / self._scale).astype(np.float32)

    def update(self, classes: Integers) -> None:
        pass


class _LearnedUnigram:
    """Classes by how often they have been true; each has been so once before anything is known.

    Counts lie in blocks whose sums are kept, so that a draw looks at one block and a run costs far less than a sum
    over all classes. The once from the beginning is not among them: memory is touched where something was learned.
    """

    _BLOCK = 1024

    def __init__(self, limit: int) -> None:
        if not 0 <= limit < _INT32_MAX:
            raise InvalidArgument(f"range_max must be in [0, {_INT32_MAX}), got {limit}")
        self.range = limit
        blocks = -(-limit // self._BLOCK)
        self._counts = np.zeros((blocks, self._BLOCK), np.int64)
        self._sums = np.full(blocks, self._BLOCK)
        self._sums[-1:] -= blocks * self._BLOCK - limit
        self._total = limit

    def draw(self, words: Words, count: int) -> Integers:
        places = words.below(self._total, count, 32)
        ends = np.cumsum(self._sums)
        blocks = np.searchsorted(ends, places, side="right")
        inside = places - (ends[blocks] - self._sums[blocks])
        drawn = np.empty(count, np.int64)
        for start in range(0, count, self._BLOCK):
            part = slice(start, start + self._BLOCK)
            steps = np.cumsum(self._counts[blocks[part]] + 1, axis=1)
            drawn[part] = blocks[part] * self._BLOCK + (steps <= inside[part, None]).sum(axis=1)
        return drawn

    def probability(self, classes: Integers) -> Floats:
        weights = self._counts.reshape(-1)[classes] + 1
        return weights.astype(np.float32) / np.float32(self._total)

    def update(self, classes: Integers) -> None:
        flat = classes.reshape(-1)[:_INT32_MAX - self._total]
        np.add.at(self._counts.reshape(-1), flat, 1)
        np.add.at(self._sums, flat // self._BLOCK, 1)
        self._total += flat.size


class _FixedUnigram:
    """Classes by given weights, drawn by the alias method (A. J. Walker, 1977)."""

    def __init__(self, limit: int, weights: Floats, total: np.float32) -> None:
        if weights.size != limit:
            raise InvalidArgument(f"range is {limit} must be equal to weights size  {weights.size}")
        self.range = limit
        self._weights = weights
        self._total = total
        self._keep, self._other = _alias_table(weights)

    def draw(self, words: Words, count: int) -> Integers:
        pairs = words.take(2 * count).reshape(-1, 2)
        if self.range & (self.range - 1) and (pairs[:, 1] < 2**32 % self.range).any():
            return self._draw_again(words, pairs.reshape(-1).tolist(), count)
        bins = (pairs[:, 1] % np.uint32(self.range)).astype(np.int64)
        chances = (pairs[:, 0] & np.uint32(0x7FFFFF)) * np.float32(2.0**-23)
        return np.where(chances < self._keep[bins], bins, self._other[bins])

    def _draw_again(self, words: Words, known: list[int], count: int) -> Integers:
        """Draw one by one, where some word is to be drawn again and moves all that follow."""
        drawn = np.empty(count, np.int64)
        low = 2**32 % self.range
        stream = iter(known)

        def following() -> int:
            word = next(stream, None)
            return int(words.take(1)[0]) if word is None else word

        for place in range(count):
            chance = np.float32(following() & 0x7FFFFF) * np.float32(2.0**-23)
            word = following()
            while word < low:
                word = following()
            column = word % self.range
            drawn[place] = column if chance < self._keep[column] else self._other[column]
        return drawn

    def probability(self, classes: Integers) -> Floats:
        return self._weights[classes] / self._total

    def update(self, classes: Integers) -> None:
        pass


def _alias_table(weights: Floats) -> tuple[Floats, Integers]:
    """Return for each bin the chance to keep it, and the bin taken otherwise."""
    count = weights.size
    total = np.cumsum(weights)[-1] if count else np.float32(1)  # in float32, one after another
    left = (weights * np.float32(count) / total).astype(np.float64).tolist()
    keep, other = np.ones(count, np.float32), np.arange(count)
    low = [place for place, value in enumerate(left) if value < 1.0]
    high = [place for place, value in enumerate(left) if value >= 1.0]
    while low and high:
        rich, poor = high.pop(), low.pop()
        keep[poor], other[poor] = left[poor], rich
        left[rich] -= 1.0 - left[poor]
        (low if left[rich] < 1.0 else high).append(rich)
    return keep, other


def draw_classes(sampler: Sampler, words: Words, count: int, unique: bool,
                 step: StepContext) -> tuple[Integers, int]:
    """Return `count` classes and how many were drawn until there were so many.

    Parameters
    ----------
    unique : bool
        Whether every class may be there once only.
    step : StepContext
        Ends the search when the step is cancelled.
    """
    if not unique:
        return sampler.draw(words, count), count
    found = np.zeros(0, np.int64)
    tries = 0
    chunk = count
    while True:
        drawn = sampler.draw(words, chunk)
        classes, first = np.unique(drawn, return_index=True)
        fresh = np.sort(first if not found.size else first[~np.isin(classes, found)])
        missing = count - found.size
        if fresh.size >= missing:
            last = int(fresh[missing - 1]) if missing else -1
            return np.concatenate([found, drawn[fresh[:missing]]]), tries + last + 1
        found = np.concatenate([found, drawn[fresh]])
        tries += chunk
        chunk = min(2 * chunk, _MOST_TRIES)
        step.check()


def _expected(probabilities: Floats, count: int, tries: int) -> Floats:
    """Return how often classes are to be expected among `count` classes found in so many tries."""
    if tries == count:
        return probabilities * np.float32(count)
    return -np.expm1(np.float32(tries) * np.log1p(-probabilities))


class _State:
    """What a sampler's node keeps in a session."""

    def __init__(self, stream: Stream, sampler: Sampler) -> None:
        self.stream = stream
        self.sampler = sampler
        self.lock = threading.Lock()


def _sampled_shape(node: Node, shapes: Sequence[Shape]) -> Sequence[Shape]:
    count = node.attr("num_sampled")
    return [(count,), shapes[0], (count,)]


def _register(op: str, make: Callable[[Node, KernelEnv], Sampler]) -> None:
    @kernel(op, shape=_sampled_shape, needs_step=True)
    def bind(node: Node, env: KernelEnv) -> Run:
        xp = env.xp
        count, num_true, unique = node.attr("num_sampled"), node.attr("num_true"), node.attr("unique")
        for name, value in (("num_sampled", count), ("num_true", num_true)):
            if not 1 <= value <= _INT32_MAX:
                raise InvalidArgument(f"{name} must be in [1, {_INT32_MAX}], got {value}")
        stream = stream_of(node, env)
        state = env.session.kernel_state(env.path + node.name, f"{op}/sampler",
                                         lambda: _State(stream, make(node, env)))
        sampler = state.sampler

        def run(step: StepContext, true_classes: Any) -> tuple[Any, Any, Any]:
            classes = as_numpy(xp, true_classes)
            _check_classes(classes, num_true, sampler.range)
            if unique and count > sampler.range:
                raise InvalidArgument("Sampler's range is too small.")
            words = Words(stream.reserve(_BLOCKS_PER_CLASS * count))
            with state.lock:
                drawn, tries = draw_classes(sampler, words, count, unique, step)
                expected = [_expected(sampler.probability(some), count, tries) for some in (classes, drawn)]
                sampler.update(classes)
            return xp.asarray(drawn), xp.asarray(expected[0]), xp.asarray(expected[1])

        return run


def _check_classes(classes: Any, num_true: int, limit: int) -> None:
    if classes.ndim != 2:
        raise InvalidArgument("true_classes must be a matrix")
    if classes.shape[1] != num_true:
        raise InvalidArgument(f"true_classes must have num_true columns, expected: {classes.shape[1]} was: {num_true}")
    bad = (classes < 0) | (classes >= limit)
    if bad.any():
        raise InvalidArgument(f"`true_candidate` out of range [0, {limit}), received {int(classes[bad][0])}")


def _limit(node: Node) -> int:
    limit: int = node.attr("range_max")
    if limit < 1:
        raise InvalidArgument(f"range_max must be at least 1, got {limit}")
    return limit


def _fixed_unigram(node: Node, env: KernelEnv) -> Sampler:
    path, unigrams = node.attr("vocab_file").decode(), list(node.attr("unigrams"))
    if bool(path) == bool(unigrams):
        raise InvalidArgument("Must provide either vocab_file or unigrams.")
    shards, shard = node.attr("num_shards"), node.attr("shard")
    if shards < 1 or not 0 <= shard < shards:
        raise InvalidArgument(f"shard must be in [0, num_shards), got {shard} of {shards}")
    given = _vocabulary(env, path) if path else unigrams
    reserved = len(range(shard, node.attr("num_reserved_ids"), shards))
    mine = np.array(given[(shard - reserved) % shards::shards], np.float32)
    weights = np.power(mine, np.float32(node.attr("distortion")))
    total = np.cumsum(weights)[-1] if weights.size else np.float32(0)
    return _FixedUnigram(_limit(node), np.concatenate([np.zeros(reserved, np.float32), weights]), total)


def _vocabulary(env: KernelEnv, path: str) -> list[float]:
    """Return the weights of a vocabulary: the last field of each line."""
    try:
        with open(env.session.files.check(path), "rb") as file:
            lines = file.read().splitlines()
    except OSError as error:
        raise NotFound(f"{path}; {error.strerror}") from None
    weights = []
    for line in lines:
        try:
            weights.append(float(line.rsplit(b",", 1)[-1]))
        except ValueError:
            raise InvalidArgument(f"Wrong vocabulary format at line: {line.decode('utf-8', 'replace')}") from None
    return weights


_register("UniformCandidateSampler", lambda node, env: _Uniform(_limit(node)))
_register("LogUniformCandidateSampler", lambda node, env: _LogUniform(_limit(node)))
_register("LearnedUnigramCandidateSampler", lambda node, env: _LearnedUnigram(_limit(node)))
_register("FixedUnigramCandidateSampler", _fixed_unigram)


@kernel("AllCandidateSampler", shape=_sampled_shape)
def _all_candidates(node: Node, env: KernelEnv) -> Run:
    xp, count, num_true = env.xp, node.attr("num_sampled"), node.attr("num_true")

    def run(true_classes: Any) -> tuple[Any, Any, Any]:
        _check_classes(true_classes, num_true, count)
        return xp.arange(count), xp.ones(true_classes.shape, xp.float32), xp.ones(count, xp.float32)

    return run


@kernel("ComputeAccidentalHits", shape=lambda node, shapes: [(None,)] * 3)
def _accidental_hits(node: Node, env: KernelEnv) -> Run:
    xp, num_true = env.xp, node.attr("num_true")

    def run(true_classes: Any, sampled: Any) -> tuple[Any, Any, Any]:
        if true_classes.ndim != 2 or true_classes.shape[1] != num_true:
            raise InvalidArgument("true_candidates must be a batch_size * num_true matrix")
        if sampled.ndim != 1:
            raise InvalidArgument("sampled_candidates must be a vector, which is typically an output from "
                                  "CandidateSampler")
        if not sampled.size or not true_classes.size:
            return xp.zeros(0, xp.int32), xp.zeros(0, xp.int64), xp.zeros(0, xp.float32)
        order = xp.argsort(sampled, kind="stable")
        ordered = sampled[order]
        flat = true_classes.reshape(-1)
        last = xp.searchsorted(ordered, flat, side="right") - 1  # of equal samples the last one counts
        hits = xp.flatnonzero((last >= 0) & (ordered[xp.maximum(last, 0)] == flat))
        return ((hits // num_true).astype(xp.int32), order[last[hits]].astype(xp.int64),
                xp.full(hits.shape, -_FLOAT_MAX, xp.float32))

    return run
