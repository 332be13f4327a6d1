"""Summaries as serialised protocol messages."""

from __future__ import annotations
