"""Reductions, scans, arg-extrema and top-k."""

from __future__ import annotations
