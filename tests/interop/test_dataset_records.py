"""Datasets of CSV files, ragged tensors and generating functions give the same elements on both servers."""

from __future__ import annotations

import pytest

from tests.interop.programs import Seen
from tests.interop.test_datasets import comparable

PROGRAM = "dataset_records_tf"


@pytest.mark.parametrize("table", ["csv_files", "ragged_elements", "generators"])
def test_pipelines_give_the_same_elements_and_errors(both: Seen, table: str) -> None:
    ours, theirs = map(comparable, both(table))
    assert ours.keys() == theirs.keys()
    different = [name for name in theirs if ours[name] != theirs[name]]
    assert not different, "\n".join(f"{name}\n  ours   {ours[name]}\n  theirs {theirs[name]}" for name in different)


def test_answers_are_not_all_errors(both: Seen) -> None:
    ours, _ = both("csv_files")
    assert ours["numbers"] == [[1, 2], [3, 4], [5, -6], "end"]
    assert ours["selected"][0] == [1, 3]
    ours, _ = both("generators")
    assert ours["cardinality"] == -2
