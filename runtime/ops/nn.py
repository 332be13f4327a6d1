"""Activations, softmax losses, bias, batch normalisation and local response normalisation."""

from __future__ import annotations
