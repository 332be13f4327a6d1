"""Queues, with blocking, closing and cancelling."""

from __future__ import annotations
