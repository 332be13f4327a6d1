"""Gather, scatter, strided slices and where."""

from __future__ import annotations
