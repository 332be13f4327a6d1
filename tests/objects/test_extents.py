"""Free pages of a file: nothing is handed out twice, and nothing is lost."""

from __future__ import annotations

import random

import pytest

from runtime.objects.extents import PAGE_BYTES, Extents, paged


def test_sizes_are_whole_pages() -> None:
    sizes = {0: 0, 1: PAGE_BYTES, PAGE_BYTES: PAGE_BYTES, PAGE_BYTES + 1: 2 * PAGE_BYTES}
    assert {nbytes: paged(nbytes) for nbytes in sizes} == sizes


@pytest.mark.parametrize("seed", range(20))
def test_nothing_is_handed_out_twice_and_everything_comes_back(seed: int) -> None:
    chance = random.Random(seed)
    extents = Extents()
    taken: dict[int, int] = {}
    owned: dict[int, int] = {}

    def take(pages: int) -> None:
        start = extents.take(pages * PAGE_BYTES)
        if start is None:
            return
        assert start % PAGE_BYTES == 0 and start + pages * PAGE_BYTES <= extents.end
        for page in range(start // PAGE_BYTES, start // PAGE_BYTES + pages):
            assert page not in owned, f"page {page} was handed out twice"
            owned[page] = start
        taken[start] = pages

    def give_back(start: int) -> None:
        pages = taken.pop(start)
        for page in range(start // PAGE_BYTES, start // PAGE_BYTES + pages):
            del owned[page]
        extents.give_back(start, pages * PAGE_BYTES)

    for _ in range(2000):
        kind = chance.random()
        if kind < 0.02:
            extents.grow(chance.randint(1, 300) * PAGE_BYTES)
        elif kind < 0.55:
            take(chance.choice((5, 6, 25, 245, chance.randint(1, 1024))))
        elif taken:
            give_back(chance.choice(list(taken)))
        assert extents.free_bytes == extents.end - len(owned) * PAGE_BYTES
        if chance.random() < 0.01:
            used = [(start, pages * PAGE_BYTES) for start, pages in taken.items()]
            rebuilt = Extents.without(used, extents.end)
            assert rebuilt.free_bytes == extents.free_bytes
            extents = rebuilt
    for start in list(taken):
        give_back(start)
    # All of it is one again.
    assert extents.take(extents.end) == 0
    assert extents.free_bytes == 0 and extents.take(PAGE_BYTES) is None


@pytest.mark.parametrize(
    "used",
    [[(0, 8192), (4096, 4096)], [(0, 4096), (0, 4096)], [(12288, 8192)], [(0, 0)]],
    ids=["overlapping", "equal", "beyond the end", "empty"],
)
def test_impossible_places_are_refused(used: list[tuple[int, int]]) -> None:
    with pytest.raises(ValueError, match="overlap"):
        Extents.without(used, 16384)
