"""In which order a queue gives its elements out."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterable
from typing import Any, Protocol

from runtime._ext.philox import Philox

__all__ = ["Element", "FifoStore", "PriorityStore", "ShuffleStore", "Store"]

Element = tuple[Any, ...]
"""One tensor for each component of a queue."""


class Store(Protocol):
    """The elements of a queue; used under the queue's lock."""

    def __len__(self) -> int: ...

    def put(self, element: Element) -> None:
        """Add an element."""

    def take(self) -> Element:
        """Remove and return the next element; only when there is one."""

    def give_back(self, elements: Iterable[Element]) -> None:
        """Undo the last calls of `take`, whose results come in the order in which they were taken."""


class FifoStore:
    """First in, first out."""

    def __init__(self) -> None:
        self._elements: deque[Element] = deque()

    def __len__(self) -> int:
        return len(self._elements)

    def put(self, element: Element) -> None:
        """Add an element at the end."""
        self._elements.append(element)

    def take(self) -> Element:
        """Return the oldest element."""
        return self._elements.popleft()

    def give_back(self, elements: Iterable[Element]) -> None:
        """Put elements back to the front."""
        self._elements.extendleft(reversed(list(elements)))


class ShuffleStore:
    """A random one of all, drawn from the stream of two seeds as TensorFlow draws it."""

    def __init__(self, seed: int, seed2: int) -> None:
        self._elements: list[Element] = []
        self._stream = Philox(seed, seed2)
        self._words: list[int] = []

    def __len__(self) -> int:
        return len(self._elements)

    def put(self, element: Element) -> None:
        """Add an element."""
        self._elements.append(element)

    def take(self) -> Element:
        """Return a random element; the last one takes its place."""
        if not self._words:
            self._words = self._stream.reserve(1).words(4).tolist()[::-1]
        place = self._words.pop() % len(self._elements)
        found = self._elements[place]
        last = self._elements.pop()
        if place < len(self._elements):
            self._elements[place] = last
        return found

    def give_back(self, elements: Iterable[Element]) -> None:
        """Add the elements again."""
        self._elements.extend(elements)


class PriorityStore:
    """The smallest first component first; equal ones in the order in which they came."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, Element]] = []
        self._arrivals = 0
        self._returns = 0

    def __len__(self) -> int:
        return len(self._heap)

    def put(self, element: Element) -> None:
        """Add an element."""
        self._arrivals += 1
        heapq.heappush(self._heap, (int(element[0]), self._arrivals, element))

    def take(self) -> Element:
        """Return the element of the smallest priority."""
        return heapq.heappop(self._heap)[2]

    def give_back(self, elements: Iterable[Element]) -> None:
        """Add elements again, before those of the same priority."""
        for element in reversed(list(elements)):
            self._returns -= 1
            heapq.heappush(self._heap, (int(element[0]), self._returns, element))
