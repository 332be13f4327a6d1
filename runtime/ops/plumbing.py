"""Constants, placeholders, identities, assertions and printing."""

from __future__ import annotations
