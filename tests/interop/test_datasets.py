"""In-graph datasets: the same pipelines, built by TensorFlow's own library, give the same elements on both servers."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.interop.programs import Seen

PROGRAM = "datasets_tf"
TABLES = ("sources", "selections", "functions", "batches", "interleaves", "shuffles", "buffers", "files")

# TensorFlow rewrites pipelines before it runs them, and numbers and names the results.
DIFFERS = (
    (re.compile(r"Iterator::Root[\w:\[\]]*"), "ITERATOR"),
    (re.compile(r"(Dataset(?:V\d)?):\d+"), r"\1:N"),
    (re.compile(r"Created at: \d+"), "Created at: N"),
)


def comparable(value: Any) -> Any:
    """Return an answer without what differs from run to run."""
    if isinstance(value, dict):
        return {key: comparable(item) for key, item in value.items()}
    if isinstance(value, list):
        return [comparable(item) for item in value]
    if isinstance(value, str):
        for pattern, replacement in DIFFERS:
            value = pattern.sub(replacement, value)
    return value


@pytest.mark.parametrize("table", TABLES)
def test_pipelines_give_the_same_elements_and_errors(both: Seen, table: str) -> None:
    ours, theirs = map(comparable, both(table))
    assert ours.keys() == theirs.keys()
    different = [name for name in theirs if ours[name] != theirs[name]]
    assert not different, "\n".join(f"{name}\n  ours   {ours[name]}\n  theirs {theirs[name]}" for name in different)


def test_answers_are_not_all_errors(both: Seen) -> None:
    ours, _ = both("functions")
    assert ours["map"] == [0, 1, 4, 9, "end"]
    assert ours["failing map"][0]["code"] == 3
    assert "Error in user-defined function passed to MapDataset:" in ours["failing map"][0]["message"]
    assert "[[{{node inverse}}]]" in ours["failing map"][0]["message"]
    assert ours["failing map"][1:] == [1.0, 0.5, "end"]


@pytest.mark.parametrize("name", ["iterators", "variables_and_state", "whole_datasets", "cache_files", "examples"])
def test_iterators_and_their_surroundings_behave_the_same(both: Seen, name: str) -> None:
    ours, theirs = map(comparable, both(name))
    if isinstance(theirs, dict):
        different = {key: (ours.get(key), theirs[key]) for key in theirs if ours.get(key) != theirs[key]}
        assert not different
    assert ours == theirs


def test_iterators_end_with_out_of_range(seen: Seen) -> None:
    ends = seen("iterators")["one shot end"]
    assert [end["code"] for end in ends] == [11, 11]
    assert all("End of sequence" in end["message"] for end in ends)


def test_a_cache_in_files_is_read_by_either(both: Seen) -> None:
    for elements, names, _, stored, _, foreign in both("cache_files"):
        assert foreign == [0, 7, 14, "end"]
        assert elements == [[0, "0"], [1, "1"], [2, "2"], "end"]
        assert names == ["cache.data-00000-of-00001", "cache.index"]
        assert stored["      2_1"] == "2"
