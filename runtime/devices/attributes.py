"""A device as messages describe it."""

from __future__ import annotations

from typing import Any

from runtime import wire
from runtime.devices.device import Device

__all__ = ["device_attributes"]


def device_attributes(device: Device) -> Any:
    """Return the DeviceAttributes message of a device."""
    message = wire.DeviceAttributes(
        name=device.name,
        device_type=device.device_type,
        memory_limit=device.memory_limit,
        incarnation=device.incarnation,
        physical_device_desc=device.physical_description,
        xla_global_id=-1,
    )
    message.locality.SetInParent()
    return message
