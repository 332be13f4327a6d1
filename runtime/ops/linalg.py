"""Matrix products and einsum."""

from __future__ import annotations
