"""Ops that call library functions: PartitionedCall, If, While, Case."""

from __future__ import annotations
