"""Making, joining, cutting and reshaping arrays."""

from __future__ import annotations
