"""The message classes and services of every protocol: the one module that runtime code takes them from.

TensorFlow's messages are attributes of this module (``wire.GraphDef``, ``wire.DT_FLOAT``). The other protocols
have names in common, so each has a module of its own here: ``wire.armonik``, ``wire.armonik_v3``, ``wire.taskqueue``,
``wire.fleet``, ``wire.health``, ``wire.reflection`` (with ``v1`` and ``v1alpha``). Classes are made on first use, in
the descriptor pool ``wire.POOL``, which shares nothing with protobuf's default pool: a class of another package with
the same full name is another class, and a message goes from one to the other through its bytes.
"""

from __future__ import annotations

import functools
import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from google.protobuf import message_factory
from google.protobuf.message import Message

from runtime.proto import armonik, armonik_v3, fleet, health, reflection, runtime_v1, taskqueue, tensorflow
from runtime.proto._pool import FILES, POOL

if TYPE_CHECKING:
    from runtime.proto.tensorflow import *

__all__ = [
    "PLANES",
    "POOL",
    "SERVICES",
    "MethodType",
    "message_class",
    "armonik",
    "armonik_v3",
    "fleet",
    "health",
    "reflection",
    "runtime_v1",
    "taskqueue",
    "tensorflow",
]

PLANES: dict[str, str] = {
    "tensorflow.MasterService": "graph",
    "tensorflow.WorkerService": "graph",
    "runtime.v1.Observer": "graph",
    "runtime.v1.StepTensors": "graph",
    "runtime.v1.Parcels": "stream",
    "runtime.v1.Workers": "task",
    "runtime.v1.TaskBatches": "task",
    "ArmoniK.api.grpc.v1.Submitter": "task",
    "ArmoniK.api.grpc.v1.Worker": "task",
    "armonik.api.grpc.v1.submitter.Submitter": "task",
    "taskqueue.TaskQueue": "command",
    "pb.FunctionDispatcher": "fleet",
    "pb.ServerDispatcher": "fleet",
    "pb.WorkerSaver": "fleet",
    "runtime.v1.Authority": "fleet",
    "runtime.v1.Results": "task",
    "runtime.v1.Submissions": "task",
    "runtime.v1.TaskUploads": "task",
    "runtime.v1.TaskInspector": "task",
    "grpc.health.v1.Health": "edge",
    "grpc.reflection.v1.ServerReflection": "edge",
    "grpc.reflection.v1alpha.ServerReflection": "edge",
}
"""The plane that answers each service: graph, task, command, fleet or stream; edge for the server's own."""


@dataclass(frozen=True, slots=True)
class MethodType:
    """One method of a service, with what a generic handler or a client call needs to know about it.

    Attributes
    ----------
    name : str
        Method name, as in ``RunStep``.
    path : str
        What goes on the wire: ``/SERVICE/METHOD``.
    request, response : type
        Message classes.
    client_streaming, server_streaming : bool
        Whether requests, or responses, are a stream.
    """

    name: str
    path: str
    request: type[Message]
    response: type[Message]
    client_streaming: bool
    server_streaming: bool


def message_class(full_name: str) -> type[Message]:
    """Return the class of a message by its full name on the wire, as in ``tensorflow.GraphDef``.

    Raises
    ------
    KeyError
        No message of that name is declared.
    """
    return _class_of(POOL.FindMessageTypeByName(full_name))


def _class_of(descriptor: Any) -> type[Message]:
    """Return the class of a message type: the one its module exports, so that it has a name to pickle by."""
    top = descriptor
    while top.containing_type is not None:
        top = top.containing_type
    name = top.file.name
    if name.startswith("runtime/proto/"):
        importlib.import_module(name.removesuffix(".proto").replace("/", ".") + "_pb2")
    cls: type[Message] = message_factory.GetMessageClass(descriptor)
    return cls


@functools.cache
def _services() -> dict[str, dict[str, MethodType]]:
    table: dict[str, dict[str, MethodType]] = {}
    for file_name in FILES:
        for service in POOL.FindFileByName(file_name).services_by_name.values():
            table[service.full_name] = {
                method.name: MethodType(
                    method.name,
                    f"/{service.full_name}/{method.name}",
                    _class_of(method.input_type),
                    _class_of(method.output_type),
                    method.client_streaming,
                    method.server_streaming,
                )
                for method in service.methods
            }
    return table


SERVICES: dict[str, dict[str, MethodType]]
"""Full service name to method name to :class:`MethodType`, of every service in the pool; made on first use."""


if not TYPE_CHECKING:  # so that a type checker reports a name that does not exist

    def __getattr__(name: str) -> Any:
        value = _services() if name == "SERVICES" else getattr(tensorflow, name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *dir(tensorflow)})
