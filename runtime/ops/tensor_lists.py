"""TensorList values, as functional loops accumulate them."""

from __future__ import annotations
