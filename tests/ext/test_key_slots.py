"""Keys to slots and buckets."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from runtime._ext.key_slots import assign_slots, find_slots, hash64, place_keys


def test_absent_keys_are_counted() -> None:
    slots, missing = find_slots({b"a": 3, 7: 0, (1, 2): 5}, [7, b"b", b"a", (1, 2), (2, 1), 7])
    assert slots.tolist() == [0, -1, 3, 5, -1, 0]
    assert slots.dtype == np.intp
    assert missing == 2
    assert find_slots({}, [])[0].tolist() == []


def test_new_keys_get_the_free_slots_first() -> None:
    slots, free = {b"a": 0, b"b": 3}, [1, 2]
    assert assign_slots(slots, free, [b"c", b"a", b"d", b"c", b"e"]).tolist() == [2, 0, 1, 2, 4]
    assert free == []
    assert slots == {b"a": 0, b"b": 3, b"c": 2, b"d": 1, b"e": 4}


def test_ways_begin_at_the_hash_and_step_wider() -> None:
    slots: dict[int, int] = {}
    states = bytearray(8)
    hashes = np.array([9, 1, 17, 1, 1 << 63], np.uint64)
    assert place_keys(slots, states, [10, 11, 12, 10, 13], hashes).tolist() == [1, 2, 4, 1, 0]
    assert list(states) == [1, 1, 1, 0, 1, 0, 0, 0]
    assert slots == {10: 1, 11: 2, 12: 4, 13: 0}


def test_a_bucket_of_a_removed_key_is_taken_again() -> None:
    states = bytearray([0, 2, 1, 0])
    assert place_keys({}, states, [5], np.array([1], np.uint64)).tolist() == [1]


def test_a_full_table_is_no_endless_way() -> None:
    with pytest.raises(ValueError, match="no bucket left"):
        place_keys({}, bytearray([1, 1, 1, 1]), [5], np.array([0], np.uint64))
    with pytest.raises(ValueError, match="1 keys have 2 hashes"):
        place_keys({}, bytearray(4), [5], np.zeros(2, np.uint64))


def test_hashes_of_strings_depend_on_every_byte() -> None:
    texts = [b"", b"a", b"abcdefg", b"abcdefgh", b"abcdefghi", b"\x00" * 8, b"\x00" * 9, b"\xff" * 15]
    hashes = hash64(texts)
    assert hashes.dtype == np.uint64
    assert len(set(hashes.tolist())) == len(texts)
    for text in texts:
        for place in range(len(text)):
            changed = bytearray(text)
            changed[place] ^= 1
            assert hash64([bytes(changed)])[0] != hash64([text])[0]
    with pytest.raises(TypeError):
        hash64(["text"])  # type: ignore[list-item]


def test_references_are_kept_right() -> None:
    key = b"a key of its own"
    before = sys.getrefcount(key)
    slots = {}
    for _ in range(100):
        assign_slots(slots, [], [key])
        find_slots(slots, [key])
        slots.clear()
    assert sys.getrefcount(key) == before
