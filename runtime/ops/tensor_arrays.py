"""Tensor arrays and stacks, as frame-based loops accumulate them."""

from __future__ import annotations
