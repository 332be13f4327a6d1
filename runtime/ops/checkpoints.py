"""Saving and restoring checkpoints."""

from __future__ import annotations
