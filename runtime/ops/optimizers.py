"""Update rules of the optimizers, dense and sparse, on both kinds of variables."""

from __future__ import annotations
