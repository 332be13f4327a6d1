"""Where shuffling gets its random numbers: streams of words, and generators of their seeds.

A seed generator belongs to a dataset, or is a resource that several share. An iterator draws its seeds from it, so that
every reading of a dataset may have an order of its own.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from runtime._ext.philox import Philox
from runtime._ext.variable import ResourceHandle
from runtime.ops.datasets.dataset import boolean, integer
from runtime.ops.handles import handle_array
from runtime.ops.objects import object_scalar
from runtime.ops.registry import kernel
from runtime.ops.shapes import scalar

if TYPE_CHECKING:
    from runtime.graph.node import Node
    from runtime.step.environment import KernelEnv

__all__ = ["Seeds", "Words", "random_seeds", "seeds_of"]

Run = Callable[..., Any]

_SEED_GENERATOR = "N10tensorflow4data20SeedGeneratorManagerE"
_WORDS_AT_A_TIME = 256


class Words:
    """The words of 32 bits of a random stream, one at a time."""

    __slots__ = ("_ahead", "_stream")

    def __init__(self, seed: int, seed2: int) -> None:
        self._stream = Philox(seed, seed2)
        self._ahead: list[int] = []

    def next(self) -> int:
        """Return the next word."""
        if not self._ahead:
            self._ahead = self._stream.reserve(_WORDS_AT_A_TIME // 4).words(_WORDS_AT_A_TIME).tolist()
            self._ahead.reverse()
        return self._ahead.pop()


class Seeds:
    """Gives pairs of seeds.

    Parameters
    ----------
    seed, seed2 : int
    renews : bool
        Whether each pair is new, two words of the stream with these seeds; else all pairs are these.

    Notes
    -----
    Safe from several threads.
    """

    def __init__(self, seed: int, seed2: int, renews: bool) -> None:
        self._pair = seed, seed2
        self._words = Words(seed, seed2) if renews else None
        self._lock = threading.Lock()

    def draw(self) -> tuple[int, int]:
        """Return the next pair."""
        words = self._words
        if words is None:
            return self._pair
        with self._lock:
            return words.next(), words.next()


def random_seeds(seed: Any, seed2: Any) -> tuple[int, int]:
    """Return the values of two seed inputs; unforeseeable ones for two zeros."""
    pair = integer(seed, "seed"), integer(seed2, "seed2")
    return pair if any(pair) else (secrets.randbits(64), secrets.randbits(64))


def seeds_of(resource: Any) -> Seeds | None:
    """Return the generator that a resource tensor names; None for one that only fills the place."""
    found = getattr(resource.item(), "resource", None)
    return found if isinstance(found, Seeds) else None


@kernel("DummySeedGenerator", "DummyIterationCounter", "DummyMemoryCache", shape=scalar)
def _nothing(node: Node, env: KernelEnv) -> Run:
    handle = handle_array(ResourceHandle(env.device.name, "", node.op, "", None))
    return lambda: handle


@kernel("AnonymousSeedGenerator", "AnonymousRandomSeedGenerator", shape=scalar)
def _seed_generator(node: Node, env: KernelEnv) -> Run:
    device, session = env.device.name, env.session

    def run(seed: Any, seed2: Any, reshuffle: Any = None) -> Any:
        renews = reshuffle is None or boolean(reshuffle, "reshuffle")
        made = Seeds(*random_seeds(seed, seed2), renews)
        handle = ResourceHandle(device, "", session.private_name(node.name), _SEED_GENERATOR, made)
        return [handle_array(handle), object_scalar(None)]

    return run


@kernel("DeleteSeedGenerator", "DeleteRandomSeedGenerator")
def _delete(node: Node, env: KernelEnv) -> Run:
    return lambda handle, deleter: None  # it goes with its last handle
