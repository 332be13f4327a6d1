"""TF_CONFIG: the environment variable in which TensorFlow programs find their cluster and which task of it they are."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from runtime.cluster_spec import ClusterSpec
from runtime.errors import InvalidArgument

__all__ = ["VARIABLE", "TFConfig"]

VARIABLE = "TF_CONFIG"
_EXPECTED = 'expected JSON such as {"cluster": {"worker": ["host:port"]}, "task": {"type": "worker", "index": 0}}'


@dataclass(frozen=True, slots=True)
class TFConfig:
    """What the variable says.

    Attributes
    ----------
    cluster : ClusterSpec or None
        None when it describes none: the program is on its own.
    job_name : str or None
    task_index : int or None
    """

    cluster: ClusterSpec | None = None
    job_name: str | None = None
    task_index: int | None = None

    @classmethod
    def parse(cls, text: str) -> TFConfig:
        """Return what a text says; keys that do not concern a server are left alone.

        Raises
        ------
        InvalidArgument
            If it is no JSON object of that form, or an address in it is not ``host:port``.
        """
        try:
            table = json.loads(text)
        except json.JSONDecodeError as error:
            raise InvalidArgument(f"{VARIABLE} is not valid JSON ({error}): {_EXPECTED}") from None
        cluster, task = _part(table, "cluster"), _part(table, "task")
        layer = table.get("rpc_layer") or "grpc"
        if layer != "grpc":
            raise InvalidArgument(f"{VARIABLE} asks for rpc_layer {layer!r}: only grpc is spoken here")
        try:
            found = ClusterSpec.parse(cluster) if cluster else None
        except InvalidArgument as error:
            raise InvalidArgument(f"{VARIABLE}: {error.message}") from None
        job, index = task.get("type"), task.get("index")
        if job is not None and (not isinstance(job, str) or not job):
            raise InvalidArgument(f"{VARIABLE} has task.type {job!r}: {_EXPECTED}")
        if isinstance(index, str) and index.isascii() and index.isdigit():
            index = int(index)
        if index is not None and (isinstance(index, bool) or not isinstance(index, int) or index < 0):
            raise InvalidArgument(f"{VARIABLE} has task.index {index!r}: {_EXPECTED}")
        if job is not None and index is None:
            index = 0  # as TensorFlow reads it
        return cls(found, job, index)


def _part(table: Any, key: str) -> Mapping[str, Any]:
    if not isinstance(table, dict):
        raise InvalidArgument(f"{VARIABLE} is no JSON object: {_EXPECTED}")
    found = table.get(key)
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise InvalidArgument(f"{VARIABLE} has {key} {found!r}: {_EXPECTED}")
    return found
