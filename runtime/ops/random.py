"""Random numbers: Philox generators with TensorFlow's keys, counters and distributions."""

from __future__ import annotations
