"""Element-wise arithmetic, comparison, logic and rounding."""

from __future__ import annotations
