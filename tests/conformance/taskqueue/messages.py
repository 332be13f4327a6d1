"""The task queue's messages and methods, made of the published wire table alone: nothing here imports `runtime`."""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

TABLE = """
Ack: 1 success bool
ListTasksRequest: 1 status_filter optional string
ListWorkersRequest:
Task: 1 task_id uint32, 2 command string, 3 container string, 4 status string
TaskId: 1 task_id uint32
TaskList: 1 tasks repeated Task
TaskListAndOther: 1 tasks repeated Task, 2 concurrency uint32
TaskLog: 1 task_id uint32, 2 log_type string, 3 log_text string
TaskRequest: 1 command string, 2 container string
TaskResponse: 1 task_id uint32
TaskStatusUpdate: 1 task_id uint32, 2 new_status string
Worker: 1 worker_id uint32, 2 name string, 3 concurrency uint32
WorkerId: 1 worker_id uint32
WorkerIds: 1 worker_ids repeated uint32
WorkerInfo: 1 name string, 2 concurrency optional uint32
WorkerRequest: 1 provider string, 2 flavor string, 3 number uint32, 4 concurrency uint32, 5 prefetch uint32,\
 6 step_id uint32, 7 flavor_id uint32, 8 region_id uint32
WorkersList: 1 workers repeated Worker
"""
METHODS = {
    "SubmitTask": ("TaskRequest", "TaskResponse", "unary_unary"),
    "RegisterWorker": ("WorkerInfo", "WorkerId", "unary_unary"),
    "PingAndTakeNewTasks": ("WorkerId", "TaskListAndOther", "unary_unary"),
    "UpdateTaskStatus": ("TaskStatusUpdate", "Ack", "unary_unary"),
    "SendTaskLogs": ("TaskLog", "Ack", "stream_unary"),
    "StreamTaskLogs": ("TaskId", "TaskLog", "unary_stream"),
    "ListTasks": ("ListTasksRequest", "TaskList", "unary_unary"),
    "ListWorkers": ("ListWorkersRequest", "WorkersList", "unary_unary"),
    "CreateWorker": ("WorkerRequest", "WorkerIds", "unary_unary"),
    "DeleteWorker": ("WorkerId", "Ack", "unary_unary"),
}


def _classes() -> dict[str, Any]:
    field_proto = descriptor_pb2.FieldDescriptorProto
    scalar = {"bool": field_proto.TYPE_BOOL, "string": field_proto.TYPE_STRING, "uint32": field_proto.TYPE_UINT32}
    file = descriptor_pb2.FileDescriptorProto(name="wire_table.proto", package="taskqueue", syntax="proto3")
    for line in TABLE.strip().splitlines():
        name, _, fields = line.partition(":")
        message = file.message_type.add(name=name)
        for text in filter(None, (part.strip() for part in fields.split(","))):
            number, field_name, *label, kind = text.split()
            field = message.field.add(name=field_name, number=int(number))
            field.label = field_proto.LABEL_REPEATED if label == ["repeated"] else field_proto.LABEL_OPTIONAL
            if label == ["optional"]:
                field.proto3_optional, field.oneof_index = True, len(message.oneof_decl)
                message.oneof_decl.add(name=f"_{field_name}")
            if kind in scalar:
                field.type = scalar[kind]
            else:
                field.type, field.type_name = field_proto.TYPE_MESSAGE, f".taskqueue.{kind}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        message.name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"taskqueue.{message.name}"))
        for message in file.message_type
    }


CLASSES = _classes()


class Stub:
    """The ten calls over a channel, each taking and returning messages; keyword arguments go to gRPC."""

    def __init__(self, channel: Any, token: str | None = None) -> None:
        self._token = token
        self._calls: dict[str, Any] = {}
        for name, (_, answer, form) in METHODS.items():
            self._calls[name] = getattr(channel, form)(
                f"/taskqueue.TaskQueue/{name}",
                request_serializer=lambda message: message.SerializeToString(),
                response_deserializer=CLASSES[answer].FromString,
            )

    def call(self, name: str, request: Any, timeout: float = 30.0, **metadata: object) -> Any:
        """Make a call; metadata ``x_tq_follow=0`` goes as ``x-tq-follow: 0``."""
        return self._calls[name](request, timeout=timeout, metadata=self._metadata(metadata))

    def call_with_trailers(self, name: str, request: Any, timeout: float = 30.0, **metadata: object) -> Any:
        """Make a unary call; return the answer and a dict of the trailing metadata."""
        answer, call = self._calls[name].with_call(request, timeout=timeout, metadata=self._metadata(metadata))
        return answer, dict(call.trailing_metadata())

    def _metadata(self, entries: dict[str, object]) -> tuple[tuple[str, str], ...]:
        metadata = [(key.replace("_", "-"), str(value)) for key, value in entries.items()]
        if self._token:
            metadata.append(("authorization", f"Bearer {self._token}"))
        return tuple(metadata)
