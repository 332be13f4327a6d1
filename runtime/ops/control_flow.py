"""Bindings of the frame-based control flow ops for the places where they act as plain functions."""

from __future__ import annotations
