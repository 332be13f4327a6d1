"""Convolution and pooling, forward and backward."""

from __future__ import annotations
