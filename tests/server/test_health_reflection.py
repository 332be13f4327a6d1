from __future__ import annotations

from collections.abc import Iterator

import grpc
import pytest
from google.protobuf import descriptor_pb2
from google.protobuf.descriptor_pool import DescriptorPool

from runtime import wire
from tests.server.conftest import Client

CHECK, WATCH = "/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"
Request, Response = wire.health.HealthCheckRequest, wire.health.HealthCheckResponse
SERVICES = sorted(wire.SERVICES)


def check(client: Client, service: str) -> int:
    return Response.FromString(client.unary(CHECK, Request(service=service).SerializeToString())).status


def test_whole_server_is_serving(client: Client) -> None:
    assert check(client, "") == Response.SERVING


@pytest.mark.parametrize("service", SERVICES)
def test_each_service_is_serving_when_a_plane_answers_it(client: Client, service: str) -> None:
    answered = {"tensorflow.MasterService", "taskqueue.TaskQueue", "ArmoniK.api.grpc.v1.Worker", "runtime.v1.Parcels",
                "pb.FunctionDispatcher", "pb.ServerDispatcher", "pb.WorkerSaver"}
    serving = service in answered or service.startswith(("grpc.health", "grpc.reflection"))
    assert check(client, service) == (Response.SERVING if serving else Response.NOT_SERVING)


def test_unknown_service_is_not_found_by_check_and_unknown_to_watch(client: Client) -> None:
    request = Request(service="no.such").SerializeToString()
    assert client.failure(CHECK, request).code() is grpc.StatusCode.NOT_FOUND
    watch = client.stream(WATCH, request)
    assert Response.FromString(next(watch)).status == Response.SERVICE_UNKNOWN
    watch.cancel()


def test_many_watches_stay_open(client: Client) -> None:
    watches = [client.stream(WATCH) for _ in range(50)]
    for watch in watches:
        assert Response.FromString(next(watch)).status == Response.SERVING
    for watch in watches:
        watch.cancel()


@pytest.fixture(params=["v1", "v1alpha"])
def ask(request: pytest.FixtureRequest, client: Client) -> Iterator[object]:
    """Return a function that asks one question by reflection and returns the answer's message."""
    messages = getattr(wire.reflection, request.param)
    path = f"/grpc.reflection.{request.param}.ServerReflection/ServerReflectionInfo"

    def question(**fields: object) -> object:
        asked = messages.ServerReflectionRequest(host="here", **fields)
        (raw,) = client.both(path, [asked.SerializeToString()])
        answer = messages.ServerReflectionResponse.FromString(raw)
        assert answer.original_request == asked
        assert answer.valid_host == "here"
        return answer

    question.extension = messages.ExtensionRequest  # type: ignore[attr-defined]
    yield question


def test_reflection_lists_every_service(ask) -> None:  # type: ignore[no-untyped-def]
    listed = [service.name for service in ask(list_services="").list_services_response.service]
    assert listed == SERVICES


@pytest.mark.parametrize("service", SERVICES)
def test_reflection_describes_every_service_completely(ask, service: str) -> None:  # type: ignore[no-untyped-def]
    files = ask(file_containing_symbol=service).file_descriptor_response.file_descriptor_proto
    parsed = {}
    for raw in files:
        file = descriptor_pb2.FileDescriptorProto.FromString(raw)
        parsed[file.name] = file
    pool = DescriptorPool()

    def add(name: str) -> None:
        file = parsed.pop(name, None)
        if file is not None:
            for dependency in file.dependency:
                add(dependency)
            pool.Add(file)

    for name in list(parsed):
        add(name)
    found = pool.FindServiceByName(service)
    assert [method.name for method in found.methods] == list(wire.SERVICES[service])


def test_reflection_finds_files_and_types(ask) -> None:  # type: ignore[no-untyped-def]
    name = wire.GraphDef.DESCRIPTOR.file.name
    assert ask(file_by_filename=name).file_descriptor_response.file_descriptor_proto
    assert ask(file_containing_symbol="tensorflow.GraphDef").file_descriptor_response.file_descriptor_proto
    numbers = ask(all_extension_numbers_of_type="tensorflow.GraphDef").all_extension_numbers_response
    assert (numbers.base_type_name, list(numbers.extension_number)) == ("tensorflow.GraphDef", [])


def test_reflection_answers_what_it_does_not_know_with_an_error(ask) -> None:  # type: ignore[no-untyped-def]
    not_found = grpc.StatusCode.NOT_FOUND.value[0]
    for question in (
        {"file_by_filename": "no/such.proto"},
        {"file_containing_symbol": "no.such"},
        {"all_extension_numbers_of_type": "no.such"},
        {"file_containing_extension": ask.extension(containing_type="no.such", extension_number=1)},
        {"file_containing_extension": ask.extension(containing_type="tensorflow.GraphDef", extension_number=1)},
    ):
        assert ask(**question).error_response.error_code == not_found
    assert ask().error_response.error_code == grpc.StatusCode.INVALID_ARGUMENT.value[0]


def test_reflection_stream_takes_many_questions(client: Client) -> None:
    request = wire.reflection.v1.ServerReflectionRequest(list_services="").SerializeToString()
    answers = list(client.both("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", [request] * 5))
    assert len(answers) == 5
