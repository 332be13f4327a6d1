"""What stays in memory: as much as was said, the oldest goes first."""

from __future__ import annotations

from runtime.objects.recent import Recent


def test_oldest_group_goes_first_and_memory_is_bounded() -> None:
    recent = Recent(300)
    for number in range(10):
        recent.add([(b"%d" % (2 * number), [b"a"]), (b"%d" % (2 * number + 1), [b"b"])], 100)
        assert recent.nbytes == min(300, 100 * (number + 1))
    assert [recent.get(b"%d" % number) for number in range(12, 20)] == [None, None] + [[b"a"], [b"b"]] * 3
    recent.add([(b"large", [b"c"])], 301)
    assert recent.get(b"large") is None and recent.get(b"18") == [b"a"], "what is larger than all puts nothing out"


def test_memory_of_a_group_goes_with_the_last_of_it() -> None:
    recent = Recent(300)
    recent.add([(b"a", [b"1"]), (b"b", [b"2"])], 200)
    recent.drop(b"a")
    recent.drop(b"a")
    assert recent.get(b"a") is None and recent.get(b"b") == [b"2"] and recent.nbytes == 200
    recent.drop(b"b")
    assert recent.nbytes == 0
    recent.add([(b"a", [b"1"])], 200)
    recent.clear()
    assert recent.get(b"a") is None and recent.nbytes == 0
