"""Who shows no credential, a wrong one, or one that is good for something else, gets into no method of any plane.

The calls here have headers alone: what is refused is refused before anything of its body could be used.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from runtime import wire
from runtime.edge import tokens
from tests.graph.graphs import FLOAT, graph_def, node
from tests.security import calls
from tests.security.calls import METHODS, PERMISSION_DENIED, UNAUTHENTICATED, Streams, bearer, status
from tests.security.conftest import Guarded

# Written down here by hand, not taken from the server: a method that is let through or opened to a role by mistake, or
# a new one that was forgotten, does not agree with it.
PUBLIC = {
    "/pb.FunctionDispatcher/Check", "/pb.ServerDispatcher/Check", "/pb.WorkerSaver/Check",
    "/runtime.v1.Authority/GetAuthority", "/runtime.v1.Authority/Enrol", "/runtime.v1.Authority/Renew",
}
WORKERS = {f"/taskqueue.TaskQueue/{name}" for name in (
    "RegisterWorker", "PingAndTakeNewTasks", "UpdateTaskStatus", "SendTaskLogs")} | {
    "/runtime.v1.Observer/GetMetrics", "/runtime.v1.Observer/GetStatus", "/runtime.v1.Workers/Serve"}
SERVERS = {"/pb.ServerDispatcher/Register", "/pb.ServerDispatcher/GetNextServer"}
MACHINES = {"/pb.WorkerSaver/SaveMachine", "/pb.FunctionDispatcher/GetTarget"}
ROLES = ("user", "worker", "server", "machine")
PLANES = ("graph", "task", "command", "fleet", "stream")


def plane_of(path: str) -> str:
    return wire.PLANES[path.split("/")[1]]


def may_call(role: str, path: str) -> bool:
    service = path.split("/")[1]
    if path in PUBLIC or plane_of(path) == "edge":
        return True
    match role:
        case "worker":
            return path in WORKERS or service in ("tensorflow.WorkerService", "runtime.v1.StepTensors")
        case "server":
            return path in SERVERS
        case "machine":
            return path in MACHINES
    return path not in SERVERS | {"/pb.WorkerSaver/SaveMachine"}


def refusals(server: Guarded, token: str | None, expected: set[str], *, value: str | None = None) -> dict[str, int]:
    """Open every method with headers alone, wait for the expected refusals, and return all that there are by then."""
    metadata = bearer(token) if value is None else (("authorization", value),)
    with Streams(server.address) as client:
        opened = {client.open(method.path, metadata): method.path for method in METHODS}
        client.results([stream for stream, path in opened.items() if path in expected], 30)
        client.read(0.2)
        answered = {path: client.statuses[stream][0] for stream, path in opened.items() if stream in client.statuses}
    return answered


def denied(answered: dict[str, int]) -> set[str]:
    return {path for path, code in answered.items() if code == PERMISSION_DENIED}


@pytest.fixture(scope="module")
def issued(server: Guarded) -> Iterator[dict[str, str]]:
    """Tokens by role, by plane, and one that is revoked, all known to the server."""
    made = {role: server.token(role) for role in ROLES}
    made |= {plane: server.token("user", plane) for plane in PLANES}
    name = tokens.issue(server.token_file, "admin")
    made["revoked"] = name[1]
    with grpc.insecure_channel(server.address, calls.UNLIMITED) as channel:
        until_known(channel, made["revoked"])
    tokens.revoke(server.token_file, name[0].name)
    with grpc.insecure_channel(server.address, calls.UNLIMITED) as channel:
        until_known(channel, made["revoked"], known=False)
    yield made


def until_known(channel: grpc.Channel, token: str, known: bool = True) -> None:
    health = wire.SERVICES["grpc.health.v1.Health"]["Check"]
    deadline = time.monotonic() + 20
    while (status(channel, health, [b""], metadata=bearer(token))[0] == calls.OK) is not known:
        assert time.monotonic() < deadline, f"the server does not {'take' if known else 'refuse'} the token"
        time.sleep(0.05)


def test_the_table_has_every_method_of_the_server(server: Guarded, issued: dict[str, str]) -> None:
    reflection = wire.reflection.v1
    request = reflection.ServerReflectionRequest(list_services="*").SerializeToString()
    with grpc.insecure_channel(server.address) as channel:
        call = channel.stream_stream("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo")
        answer = reflection.ServerReflectionResponse.FromString(
            next(call(iter([request]), timeout=10, metadata=bearer(issued["user"]))))
    listed = {service.name for service in answer.list_services_response.service}
    assert listed == {method.path.split("/")[1] for method in METHODS}
    assert {method.path for method in METHODS} >= PUBLIC | WORKERS | SERVERS | MACHINES


@pytest.mark.parametrize("kind", ["none", "wrong", "a name alone", "a record", "revoked", "no scheme", "basic"])
def test_no_method_is_open_without_an_accepted_token(server: Guarded, issued: dict[str, str], kind: str) -> None:
    good = issued["user"]
    closed = {method.path for method in METHODS} - PUBLIC
    match kind:
        case "none":
            answered = refusals(server, None, closed)
        case "wrong":
            answered = refusals(server, good[:-1] + ("A" if good[-1] != "A" else "B"), closed)
        case "a name alone":
            answered = refusals(server, good[:12], closed)
        case "a record":
            record = next(line for line in server.token_file.read_text().splitlines() if line.startswith(good[:12]))
            answered = refusals(server, None, closed, value="Bearer " + record)
        case "revoked":
            answered = refusals(server, issued["revoked"], closed)
        case "no scheme":
            answered = refusals(server, None, closed, value=good)
        case _:
            answered = refusals(server, None, closed, value=f"Basic {good}")
    assert answered == dict.fromkeys(closed, UNAUTHENTICATED)


@pytest.mark.parametrize("role", ROLES)
def test_a_role_opens_its_own_methods_alone(server: Guarded, issued: dict[str, str], role: str) -> None:
    expected = {method.path for method in METHODS if not may_call(role, method.path)}
    assert denied(refusals(server, issued[role], expected)) == expected


@pytest.mark.parametrize("plane", PLANES)
def test_a_token_for_a_plane_opens_no_other(server: Guarded, issued: dict[str, str], plane: str) -> None:
    expected = {
        method.path for method in METHODS
        if not may_call("user", method.path)
        or (plane_of(method.path) not in (plane, "edge") and method.path not in PUBLIC)
    }
    assert denied(refusals(server, issued[plane], expected)) == expected


@pytest.mark.parametrize("kind, code", [("none", UNAUTHENTICATED), ("wrong", UNAUTHENTICATED),
                                        ("revoked", UNAUTHENTICATED), ("machine", PERMISSION_DENIED)])
def test_a_client_of_grpc_is_told_so_in_every_form(
    server: Guarded, issued: dict[str, str], kind: str, code: int
) -> None:
    token = {"none": None, "wrong": "not-the-token-of-anyone"}.get(kind, issued.get(kind))
    found = {}
    with grpc.insecure_channel(server.address, calls.UNLIMITED) as channel:
        for method in METHODS:
            if method.path in PUBLIC or (kind == "machine" and may_call("machine", method.path)):
                continue
            found[method.path] = status(channel, method, [b"\xff" * 1000], metadata=bearer(token))
    assert {path for path, (got, _) in found.items() if got != code} == set()
    for _, text in found.values():
        assert text and (token is None or token not in text)


def test_a_revoked_token_ends_what_it_has_open(server: Guarded) -> None:
    """A stream that was let in does not outlive the right to it."""
    record, text = tokens.issue(server.token_file, "user")
    _, other = tokens.issue(server.token_file, "user")
    watch = wire.SERVICES["grpc.health.v1.Health"]["Watch"].path
    receive = wire.SERVICES["runtime.v1.Parcels"]["Receive"].path
    run = wire.SERVICES["tensorflow.MasterService"]["RunStep"].path
    graph = graph_def(node("queue", "FIFOQueueV2", component_types=[FLOAT]),
                      node("take", "QueueDequeueV2", "queue", component_types=[FLOAT]))
    with grpc.insecure_channel(server.address, calls.UNLIMITED) as channel:
        until_known(channel, other)
        create = channel.unary_unary("/tensorflow.MasterService/CreateSession")
        request = wire.CreateSessionRequest(graph_def=graph)
        created = wire.CreateSessionResponse.FromString(
            create(request.SerializeToString(), timeout=20, metadata=bearer(other)))
    waiting = wire.RunStepRequest(session_handle=created.session_handle, fetch=["take:0"])
    with Streams(server.address) as client:
        kept = client.open(watch, bearer(other))
        client.send(kept, b"")
        opened = [client.open(path, bearer(text)) for path in (watch, receive, run)]
        client.send(opened[0], b"")
        client.send(opened[2], waiting.SerializeToString())
        while opened[0] not in client.received or kept not in client.received:
            assert client.read(10)
        assert opened[2] not in client.statuses
        tokens.revoke(server.token_file, record.name)
        assert [answer and answer[0] for answer in client.results(opened)] == [UNAUTHENTICATED] * 3
        client.read(0.3)
        assert kept not in client.statuses
        assert text not in str(client.statuses)


# -- invitations of the authority --------------------------------------------------------------------------------------


def request_of(key: object) -> bytes:
    from runtime.authority.identity import _request

    return _request(key)  # type: ignore[arg-type]


def signing(server: Guarded, name: str, message: Any, source: str) -> tuple[int, str]:
    """Ask the authority from an address of its own: answers to one that is refused often are held back for long."""
    with Streams(server.address, source=source) as client:
        stream = client.open(wire.SERVICES["runtime.v1.Authority"][name].path)
        client.send(stream, message.SerializeToString())
        answer, = client.results([stream])
    assert answer is not None
    return answer


def test_an_invitation_cannot_be_used_again(server: Guarded) -> None:
    from cryptography.hazmat.primitives.asymmetric import ec

    from runtime.authority.authority import Authority

    authority = Authority(server.pki)
    first, second = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    sources = (f"127.210.0.{number}" for number in itertools.count(1))

    def ask(invitation: str, secret: str, key: object) -> tuple[int, str]:
        message = wire.runtime_v1.EnrolRequest(invitation=invitation, secret=secret, request=request_of(key))
        return signing(server, "Enrol", message, next(sources))

    used, withdrawn, late = (authority.invite("member", ["member.test"], 1, valid) for valid in (60, 60, 0.001))
    authority.withdraw(withdrawn.name)
    assert ask(used.name, used.secret, first)[0] == calls.OK
    before = len(authority.entries().issued)
    for name, secret, part in (
        (used.name, used.secret, "has been used, by another key"),
        (used.name, "x" * len(used.secret), "not one that this authority accepts"),
        (withdrawn.name, withdrawn.secret, "not one that this authority accepts"),
        (late.name, late.secret, "has expired"),
        (late.name, used.secret, "not one that this authority accepts"),
    ):
        code, text = ask(name, secret, second)
        assert code == UNAUTHENTICATED and part in text and secret not in text
    assert len(authority.entries().issued) == before


def test_a_renewal_that_is_replayed_signs_for_nobody_else(server: Guarded) -> None:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec

    from runtime.authority.authority import Authority
    from runtime.authority.keys import make_proof

    authority = Authority(server.pki)
    key, thief = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    text = authority.invite("renewed", ["renewed.test"], 1, 60)
    certificate = authority.enrol(text.name, text.secret, request_of(key))
    request = request_of(key)
    sent = wire.runtime_v1.RenewRequest(certificate=certificate, request=request, proof=make_proof(key, request))
    renew = wire.SERVICES["runtime.v1.Authority"]["Renew"]
    with grpc.insecure_channel(server.address, calls.UNLIMITED) as channel:
        answers = [
            wire.runtime_v1.CertificateResponse.FromString(channel.unary_unary(renew.path)(sent.SerializeToString()))
            for _ in range(2)
        ]
        for answer in answers:
            assert x509.load_pem_x509_certificate(answer.certificate).public_key() == key.public_key()
    stolen = wire.runtime_v1.RenewRequest(certificate=certificate, request=request_of(thief), proof=sent.proof)
    assert signing(server, "Renew", stolen, "127.210.1.1")[0] == UNAUTHENTICATED
    authority.revoke(f"{x509.load_pem_x509_certificate(certificate).serial_number:x}")
    assert signing(server, "Renew", sent, "127.210.1.1")[0] == UNAUTHENTICATED
