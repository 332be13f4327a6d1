"""Crops of images: what the table of ops does not reach, which is calls that do not fit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from runtime._ext import image_crops
from tests.ext.kernels.harness import misaligned

GOOD: dict[str, Any] = {
    "images": np.arange(24, dtype=np.float32).reshape(1, 3, 4, 2), "which": np.zeros(1, np.int64),
    "top": np.array([[0, 1]]), "bottom": np.array([[1, 2]]), "down": np.array([[0.5, 0]], np.float32),
    "rows_inside": np.ones((1, 2), bool), "left": np.array([[0, 3]]), "right": np.array([[1, 3]]),
    "across": np.array([[0.25, 0]], np.float32), "columns_inside": np.array([[True, False]]), "outside": -1.0,
    "smooth": True,
}


def crops(**changes: Any) -> np.ndarray[Any, Any]:
    return image_crops.crops(*{**GOOD, **changes}.values())


def test_cells_are_mixed_or_taken() -> None:
    assert crops().tolist() == [[[[4.5, 5.5], [-1, -1]], [[8.5, 9.5], [-1, -1]]]]
    assert np.array_equal(crops(images=misaligned(GOOD["images"])), crops())
    assert crops(smooth=False).tolist() == [[[[0, 1], [-1, -1]], [[8, 9], [-1, -1]]]]
    assert crops(rows_inside=np.array([[False, True]])).tolist() == [[[[-1, -1], [-1, -1]], [[8.5, 9.5], [-1, -1]]]]


@pytest.mark.parametrize("name, value", [("which", [1]), ("which", [-1]), ("top", [[0, 3]]), ("bottom", [[-1, 0]]),
                                         ("left", [[0, 4]]), ("right", [[4, 0]])])
def test_a_cell_of_no_image_is_refused(name: str, value: list[Any]) -> None:
    with pytest.raises(IndexError, match=f"{name} must be between 0 and"):
        crops(**{name: np.array(value)})


@pytest.mark.parametrize("name", ["top", "bottom", "down", "rows_inside", "left", "right", "across", "columns_inside"])
def test_shapes_must_go_together(name: str) -> None:
    with pytest.raises(ValueError, match="must be of shape"):
        crops(**{name: np.concatenate([GOOD[name]] * 2)})
