"""The task that a server is: its name and its devices."""

from __future__ import annotations

from collections.abc import Iterable

from runtime.devices.device import Device, cpu_device
from runtime.graph.device_spec import DeviceSpec
from runtime.step.files import FileAccess

__all__ = ["Task"]


class Task:
    """One task of a cluster, with the devices that every session of this process shares.

    Parameters
    ----------
    job_name, index : str, int
    num_cpus : int
        How many CPU devices it shows; they share the machine's cores.
    files : FileAccess, optional
        Which files graph ops may touch; all when left out.
    devices : iterable of Device, optional
        In place of CPUs. The first is where fed values arrive and fetched ones leave.

    Attributes
    ----------
    name : str
        ``/job:J/replica:0/task:T``.
    """

    def __init__(
        self,
        job_name: str = "local",
        index: int = 0,
        *,
        num_cpus: int = 1,
        files: FileAccess | None = None,
        devices: Iterable[Device] | None = None,
    ) -> None:
        self.job_name = job_name
        self.index = index
        self.name = DeviceSpec(job_name, 0, index).task_name
        self.files = FileAccess(None) if files is None else files
        if devices is None:
            devices = [cpu_device(job_name, index, number) for number in range(num_cpus)]
        self.devices: tuple[Device, ...] = tuple(devices)
        if not self.devices:
            raise ValueError(f"task {self.name} needs a device")

    def renamed(self, job_name: str, index: int) -> Task:
        """Return this task under another name: the same devices with the same incarnations and resources."""
        devices = []
        for device in self.devices:
            kind = device.name.rpartition("/")[2]
            devices.append(
                Device(
                    f"{DeviceSpec(job_name, 0, index).task_name}/{kind}",
                    device.device_type,
                    device.resources,
                    device.incarnation,
                    device.xp,
                    device.memory_limit,
                    device.physical_description,
                )
            )
        return Task(job_name, index, files=self.files, devices=devices)

    def clear(self, containers: Iterable[str] = ()) -> None:
        """Empty containers on every device; the default container of each when none is named."""
        names = list(containers)
        for device in self.devices:
            for name in names or [device.resources.default_container]:
                device.resources.clear(name)
