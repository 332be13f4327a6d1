"""Device names."""

from __future__ import annotations

import pytest

from runtime.errors import InvalidArgument
from runtime.graph.device_spec import DeviceSpec, parse


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ""),
        ("/", ""),
        ("/job:w", "/job:w"),
        ("/job:*", ""),
        ("/task:3/job:w", "/job:w/task:3"),
        ("/device:CPU", "/device:CPU:*"),
        ("/device:CPU:*", "/device:CPU:*"),
        ("/device:XPU:2", "/device:XPU:2"),
        ("/cpu:0", "/device:CPU:0"),
        ("/CPU:1", "/device:CPU:1"),
        ("/gpu:*", "/device:GPU:*"),
        ("/GPU:3", "/device:GPU:3"),
        ("/job:a/job:b", "/job:b"),
        ("/cpu:0/device:GPU:1", "/device:GPU:1"),
        ("/device:*", ""),
        ("/replica:0", "/replica:0"),
        ("/job:my_job2/replica:0/task:12/device:CPU:0", "/job:my_job2/replica:0/task:12/device:CPU:0"),
    ],
)
def test_parts_parse_in_any_order(text: str, expected: str) -> None:
    spec = parse(text)
    assert spec is not None
    assert str(spec) == expected


@pytest.mark.parametrize(
    "text",
    [
        "hello",
        "/hello",
        "/job:",
        "/job:1a",
        "job:w",
        "/job:w/",
        "/task:-1",
        "/task:x",
        "/cpu",
        "/cpu:x",
        "/job:w task:0",
        "/device:CPU:0x",
        "/job:w//task:0",
        "/task:٣",
        "/Cpu:0",
    ],
)
def test_anything_else_is_no_device_name(text: str) -> None:
    assert parse(text) is None


FULL = parse("/job:w/replica:0/task:1/device:CPU:0")


def test_a_specification_matches_devices_that_have_all_it_says() -> None:
    assert FULL is not None
    assert FULL.is_full
    assert FULL.task_name == "/job:w/replica:0/task:1"
    for text, fits in [
        ("", True),
        ("/job:w", True),
        ("/job:x", False),
        ("/task:1", True),
        ("/task:0", False),
        ("/device:CPU", True),
        ("/gpu:*", False),
        ("/cpu:1", False),
        ("/replica:1", False),
    ]:
        spec = parse(text)
        assert spec is not None
        assert spec.matches(FULL) is fits, text
        assert spec.intersects(FULL) is fits, text


def test_filters_intersect_when_nothing_contradicts() -> None:
    one, other = parse("/job:w/cpu:0"), parse("/task:3")
    assert one is not None and other is not None
    assert one.intersects(other)
    assert not one.matches(other)


def merge(one: str, other: str, *, soft: bool = False) -> str:
    first, second = parse(one), parse(other)
    assert first is not None and second is not None
    return str(first.merge(second, soft=soft))


def test_merging_takes_what_either_says() -> None:
    assert merge("/job:w", "/task:1/cpu:0") == "/job:w/task:1/device:CPU:0"
    assert merge("", "") == ""
    assert merge("/cpu:*", "/cpu:3") == "/device:CPU:3"


@pytest.mark.parametrize(
    ("one", "other", "what"),
    [
        ("/job:a", "/job:b", "jobs"),
        ("/replica:0", "/replica:1", "replicas"),
        ("/task:0", "/task:1", "tasks"),
        ("/cpu:0", "/gpu:0", "types"),
        ("/cpu:0", "/cpu:1", "ids"),
    ],
)
@pytest.mark.parametrize("soft", [False, True])
def test_conflicts_are_errors_but_for_soft_types_and_ids(one: str, other: str, what: str, soft: bool) -> None:
    if soft and what == "types":
        assert merge("/job:a" + one, other, soft=True) == "/job:a"
    elif soft and what == "ids":
        assert merge(one, other, soft=True) == "/device:CPU:*"
    else:
        with pytest.raises(InvalidArgument, match=f"^Cannot merge devices with incompatible {what}: '/"):
            merge(one, other, soft=soft)


def test_an_open_specification_is_the_default() -> None:
    assert parse("") == DeviceSpec()
