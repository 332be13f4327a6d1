"""Unique, segment sums, dynamic stitch and partition: what sparse gradients need."""

from __future__ import annotations
