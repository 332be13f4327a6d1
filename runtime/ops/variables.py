"""Reference variables and resource variables."""

from __future__ import annotations
