"""How a tensor travels among the members of a group: rings for sums and gathers, a tree for broadcasts.

Pieces, keys and the order of the arithmetic are TensorFlow's, so that a member may be one of its workers. A piece is a
generator: it yields what it wants to receive, is sent the content, and gives out what others may have.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from runtime._ext.errors import InvalidArgument

__all__ = ["Piece", "Wanted", "broadcast", "ring_gather", "ring_reduce", "subdivisions"]

# A ring's pieces end at multiples of this many bytes, as TensorFlow's do.
_ALIGNMENT = 64
_MAX_PIECE_BYTES = 4 << 20
_DEFAULT_SUBDIVISIONS = 2


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a piece waits for: so many elements from a member, under a key."""

    rank: int
    key: str
    size: int


Piece = Generator[Wanted, Any, Any]
Give = Callable[[str, Any], None]
Merge = Callable[[Any, Any], Any]


def subdivisions(nbytes: int, group_size: int, num_tasks: int, most_per_device: int) -> tuple[int, ...]:
    """Return the offsets of a ring's subdivisions for a tensor of so many bytes.

    Parameters
    ----------
    most_per_device : int
        -1 for one in all, 0 for TensorFlow's choice.
    """
    if most_per_device == -1:
        return (0,)
    per_task = max(1, group_size // num_tasks)
    most = (most_per_device or _DEFAULT_SUBDIVISIONS) * per_task
    count = 1
    while nbytes // (group_size * count) > _MAX_PIECE_BYTES and count < most:
        count += 1
    stride = max(1, per_task // count)
    return tuple(-stride * place if place % 2 else stride * place for place in range(count))


def _ring(tasks: Sequence[str], offset: int) -> list[int]:
    """Return the ranks in the order of a ring in which each task's devices are turned by an offset, or reversed."""
    ring: list[int] = []
    start = 0
    while start < len(tasks):
        count = 1
        while start + count < len(tasks) and tasks[start + count] == tasks[start]:
            count += 1
        for place in range(count):
            turned = (place + abs(offset)) % count
            ring.append(start + (count - 1 - turned if offset < 0 else turned))
        start += count
    return ring


def ring_reduce(value: Any, tasks: Sequence[str], rank: int, name: str, offsets: Sequence[int], merge: Merge,
                final: Callable[[Any], Any] | None, give: Give) -> list[Piece]:
    """Return the pieces of a reduction in their order: joined they are the result, flat.

    Parameters
    ----------
    value : ndarray
        Of one dimension.
    tasks : sequence of str
        Of the members, by rank.
    name : str
        What keys begin with.
    give : callable
        ``give(key, array)`` leaves a piece for the next member.
    """
    members = len(tasks)
    rings = [_ring(tasks, offset) for offset in offsets]
    num_pieces = members * len(rings)
    step = _aligned(value.size, num_pieces, value.itemsize)
    pieces = []
    for chunk in range(members):
        for number, ring in enumerate(rings):
            section = chunk * len(rings) + number
            part = value[min(section * step, value.size):min((section + 1) * step, value.size)]
            pieces.append(_reduced(part, chunk, section, ring, ring.index(rank), name, merge, final, give))
    return pieces


def _aligned(size: int, num_pieces: int, itemsize: int) -> int:
    """Return the elements of a piece; one that ends at a boundary gets another one's bytes, as in TensorFlow."""
    step = -(-size // num_pieces)
    if itemsize >= _ALIGNMENT:
        return step
    nbytes = step * itemsize
    return step + (_ALIGNMENT - nbytes if nbytes < _ALIGNMENT else _ALIGNMENT - nbytes % _ALIGNMENT) // itemsize


def _reduced(part: Any, chunk: int, section: int, ring: list[int], place: int, name: str, merge: Merge,
             final: Callable[[Any], Any] | None, give: Give) -> Piece:
    members = len(ring)
    before = (place - 1) % members
    if part.size == 0:
        return part
    # Once around to add up: the last member that a piece comes to has all of it.
    last = (chunk - 1) % members
    if place != chunk:
        part = merge(part, (yield Wanted(ring[before], f"{name}:0:{section}:{before}", part.size)))
    if place == last:
        if final is not None:
            part = final(part)
    else:
        give(f"{name}:0:{section}:{place}", part)
    # And once more to tell.
    if place != last:
        part = yield Wanted(ring[before], f"{name}:1:{section}:{before}", part.size)
    if place != (chunk - 2) % members:
        give(f"{name}:1:{section}:{place}", part)
    return part


def ring_gather(value: Any, tasks: Sequence[str], rank: int, name: str, give: Give) -> list[Piece]:
    """Return one piece per member, in their order."""
    members = len(tasks)
    ring = _ring(tasks, 0)
    place = ring.index(rank)
    before = (place - 1) % members

    def gathered(chunk: int) -> Piece:
        part = value
        if part.size == 0:
            return part
        if place != chunk:
            part = yield Wanted(ring[before], f"{name}:0:{chunk}:{before}", value.size)
        if place != (chunk - 1) % members:
            give(f"{name}:0:{chunk}:{place}", part)
        return part

    return [gathered(chunk) for chunk in range(members)]


def broadcast(value: Any, size: int, tasks: Sequence[str], rank: int, source: int, name: str, give: Give
              ) -> list[Piece]:
    """Return the piece of a broadcast: first from task to task, then inside of each.

    Parameters
    ----------
    value : ndarray or None
        Of one dimension; None on all members but the source.
    size : int
        Its elements.
    source : int
        Rank of the source.
    """
    by_task: dict[str, list[int]] = {}
    for number, task in enumerate(tasks):
        by_task.setdefault(task, []).append(number)
    trees: list[tuple[list[int], int]] = []
    if len(by_task) > 1:
        heads = [source if source in ranks else ranks[0] for ranks in by_task.values()]
        trees.append((heads, heads.index(source)))
    for ranks in by_task.values():
        trees.append((ranks, ranks.index(source) if source in ranks else 0))

    def spread() -> Piece:
        found = value
        if size == 0:
            return np.empty(0) if found is None else found
        for number, (ranks, start) in enumerate(trees):
            if rank not in ranks:
                continue
            place = ranks.index(rank)
            if place != start:
                parent = _parent(place, start)
                found = yield Wanted(ranks[parent], f"{name}:{number}:{parent}:{place}", size)
            for child in _children(place, start, len(ranks)):
                give(f"{name}:{number}:{place}:{child}", found)
        return found

    return [spread()]


def _parent(place: int, source: int) -> int:
    if source == 0:
        return (place - 1) // 2
    before = place // 2 - 1
    return source if before < 0 else before


def _children(place: int, source: int, members: int) -> list[int]:
    """Return whom a member of a binary tree sends to; a source that is not the first stands before it as well."""
    first = 2 * place + 1 if source == 0 else 2 * (place + 1)
    found = [child for child in (first, first + 1) if child < members and child != source]
    if place == source and source != 0:
        found = [child for child in (0, 1) if child < members and child != source] + found
    return found


def merge_of(name: str) -> Merge:
    """Return the arithmetic of an attr ``merge_op``.

    Raises
    ------
    InvalidArgument
        If there is none of that name.
    """
    found = {"Add": np.add, "Mul": np.multiply, "Max": np.maximum, "Min": np.minimum}.get(name)
    if found is None:
        raise InvalidArgument(f"merge_op is {name!r}: it must be Add, Mul, Max or Min")
    return found


def final_of(name: str, members: int) -> Callable[[Any], Any] | None:
    """Return the arithmetic of an attr ``final_op`` for a group of so many members.

    Raises
    ------
    InvalidArgument
        If there is none of that name.
    """
    if name == "Id":
        return None
    if name != "Div":
        raise InvalidArgument(f"final_op is {name!r}: it must be Id or Div")

    def divided(part: Any) -> Any:
        if part.dtype.kind == "i":  # towards zero
            return (np.abs(part) // members * np.sign(part)).astype(part.dtype)
        return part / part.dtype.type(members)

    return divided
