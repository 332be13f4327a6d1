"""The tasks of a cluster and their addresses, as a ClusterDef or ``tf.train.ClusterSpec`` describes them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runtime.errors import Internal, InvalidArgument

_EXPECTED = (
    'expected JSON such as {"ps": ["host:port"], "worker": ["host:port", "host:port"]} '
    'or with task numbers, {"worker": {"1": "host:port"}}, or a file that holds it'
)


@dataclass(frozen=True)
class ClusterSpec:
    """Jobs by name, each with the addresses of its tasks by index; indices may have gaps.

    Examples
    --------
    >>> ClusterSpec.parse('{"worker": ["localhost:2222", "localhost:2223"]}').address("worker", 1)
    'localhost:2223'
    """

    jobs: Mapping[str, Mapping[int, str]]

    @classmethod
    def parse(cls, source: str | Mapping[str, Any]) -> ClusterSpec:
        """Return the cluster that a mapping, a JSON text or a file of JSON describes.

        Raises
        ------
        InvalidArgument
            If ``source`` is none of these, a job is named twice, or an address is not ``host:port``.
        """
        table = json_table(source) if isinstance(source, str) else source
        if not isinstance(table, Mapping) or not table:
            raise InvalidArgument(f"cluster {source!r} is not valid: {_EXPECTED}")
        return cls({str(job): _tasks(str(job), tasks) for job, tasks in table.items()})

    @classmethod
    def from_proto(cls, cluster_def: Any) -> ClusterSpec:
        """Return the cluster of a ClusterDef message.

        Raises
        ------
        InvalidArgument
            If a job is there twice, or an address is not ``host:port``.
        """
        jobs: dict[str, Mapping[int, str]] = {}
        for job in cluster_def.job:
            if job.name in jobs:
                raise InvalidArgument(f"Duplicate job ID in cluster specification: {job.name}")
            jobs[job.name] = _tasks(job.name, dict(job.tasks))
        return cls(jobs)

    def address(self, job: str, task: int) -> str:
        """Return the ``host:port`` of one task.

        Raises
        ------
        Internal
            If the cluster has no such job.
        InvalidArgument
            If the job has no such task. Codes and texts of both are TensorFlow's.
        """
        tasks = self.jobs.get(job)
        if tasks is None:
            raise Internal(f'Job "{job}" was not defined in cluster')
        if task not in tasks:
            raise InvalidArgument(f'Task {task} was not defined in job "{job}"')
        return tasks[task]

    def to_json(self) -> str:
        """Return the JSON text from which :meth:`parse` makes an equal cluster."""
        return json.dumps({job: {str(task): tasks[task] for task in tasks} for job, tasks in self.jobs.items()})


def json_table(source: str) -> Any:
    """Return what a JSON text or a file of JSON holds, and refuse a key that is given twice.

    Raises
    ------
    InvalidArgument
        If there is no such file and the text is not JSON.
    """
    text = source
    if not source.lstrip().startswith("{"):
        try:
            text = Path(source).expanduser().read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidArgument(f"cluster {source!r} cannot be read ({error}): {_EXPECTED}") from error
    try:
        return json.loads(text, object_pairs_hook=_unique)
    except json.JSONDecodeError as error:
        raise InvalidArgument(f"cluster {source!r} is not valid JSON ({error}): {_EXPECTED}") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table: dict[str, Any] = {}
    for key, value in pairs:
        if key in table:
            raise InvalidArgument(f"Duplicate job ID in cluster specification: {key}")
        table[key] = value
    return table


def _tasks(job: str, tasks: Any) -> Mapping[int, str]:
    if isinstance(tasks, str):
        tasks = [tasks]
    if isinstance(tasks, (list, tuple)):
        tasks = dict(enumerate(tasks))
    if not isinstance(tasks, Mapping):
        raise InvalidArgument(f"job {job!r} of the cluster has {tasks!r} for its tasks: {_EXPECTED}")
    found: dict[int, str] = {}
    for index, address in tasks.items():
        try:
            number = int(index)
        except (TypeError, ValueError):
            raise InvalidArgument(f"job {job!r} of the cluster has task {index!r}: expected a number") from None
        found[number] = _host_port(address)
    return found


def _host_port(address: Any) -> str:
    host, separator, port = str(address).rpartition(":")
    number = int(port) if port.isascii() and port.isdigit() else -1
    if not isinstance(address, str) or not separator or "/" in host or not 0 <= number < 1 << 32:
        raise InvalidArgument(f'Could not interpret "{address}" as a host-port pair.')
    return address
