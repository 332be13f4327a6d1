"""The gRPC reflection service, in the two versions that clients ask for."""

from __future__ import annotations

from runtime.proto.reflection import v1, v1alpha

__all__ = ["v1", "v1alpha"]
