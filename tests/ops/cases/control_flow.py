"""Cases of control flow ops that are functions; what decides what runs is in `tests/step/test_control_flow.py`."""

from __future__ import annotations

from collections.abc import Iterator

from tests.ops.case import Case, op_case


def cases() -> Iterator[Case]:
    """Yield the cases."""
    for names in (["CPU", "GPU"], ["GPU", "CPU"], ["GPU"], ["CPU", "CPU"], ["cpu", "TPU_REPLICATED_CORE"]):
        yield op_case("DeviceIndex", device_names=names)
