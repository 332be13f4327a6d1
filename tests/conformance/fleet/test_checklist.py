"""The fleet's checklist, item by item, through raw stubs against a server."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import os
import signal
import socket
import sqlite3
import ssl
import subprocess
import sys
import time
import uuid as uuids
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

import runtime
from runtime import wire
from runtime._ext.http2_call import Method
from runtime.authority import certificates as pki_files
from runtime.edge import tokens
from runtime.edge.connect import connect
from tests.fleet.certificates import der, key_pem, make, pem, small_rsa_key
from tests.processes import read_ready
from tests.security.calls import UNAVAILABLE, Streams

TIMEOUT_S = 30.0
SERVING, NOT_SERVING = 1, 2
YES, NO = 1, 2


class Stub:
    """The three services over one channel."""

    def __init__(self, channel: grpc.Channel, token: str | None = None, address: str = "") -> None:
        self._channel = channel
        self.address = address
        self._metadata = (("authorization", f"Bearer {token}"),) if token else ()

    def call(self, path: str, request: bytes) -> tuple[bytes, str]:
        """Return the answer and the reason in its trailers."""
        answer, call = self._channel.unary_unary(path).with_call(request, timeout=TIMEOUT_S, metadata=self._metadata)
        return answer, dict(call.trailing_metadata()).get("x-fleet-reason", "")

    def check(self, service: str) -> int:
        return wire.fleet.HealthCheckRes.FromString(self.call(f"/pb.{service}/Check", b"")[0]).status

    def register(self, certificate: bytes) -> tuple[int, str]:
        request = wire.fleet.RegisterReq(certificate=certificate).SerializeToString()
        answer, reason = self.call("/pb.ServerDispatcher/Register", request)
        return wire.fleet.RegisterRes.FromString(answer).status, reason

    def offer(self, ip: str, certificate: bytes) -> tuple[int, str]:
        request = wire.fleet.GetNextServerReq(ip=ip, certificate=certificate).SerializeToString()
        answer, reason = self.call("/pb.ServerDispatcher/GetNextServer", request)
        return wire.fleet.GetNextServerRes.FromString(answer).status, reason

    def target(self, uuid: bytes) -> tuple[str, bytes]:
        request = wire.fleet.GetTargetReq(uuid=uuid).SerializeToString()
        answer, _ = self.call("/pb.FunctionDispatcher/GetTarget", request)
        message = wire.fleet.GetTargetRes.FromString(answer)
        return message.ip, message.certificate

    def save(self, machine: Any) -> tuple[int, str]:
        request = wire.fleet.SaveMachineReq(machine=machine).SerializeToString()
        answer, reason = self.call("/pb.WorkerSaver/SaveMachine", request)
        return wire.fleet.SaveMachineRes.FromString(answer).status, reason


@contextlib.contextmanager
def fleet(folder: Path, token: str | None = None, **options: Any) -> Iterator[Stub]:
    options = {"fleet_ownership": "off", **options}
    with (
        runtime.Server(services=("fleet",), data_dir=folder, **options) as server,
        grpc.insecure_channel(server.address, [("grpc.max_send_message_length", -1)]) as channel,
    ):
        yield Stub(channel, token, server.address)


@pytest.fixture
def stub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stub]:
    # The limit of calls has a test of its own; the others make as many as they like.
    monkeypatch.setattr("runtime.edge.peer_limits.CALLS_PER_S", 1e6)
    monkeypatch.setattr("runtime.edge.peer_limits.BURST", 1e6)
    monkeypatch.setattr("runtime.edge.peer_limits.FAILURE_DELAY_S", 0.0)
    with fleet(tmp_path) as stub:
        yield stub


def until(what: Callable[[], bool], awaited: str, pause_s: float = 0.02) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while not what():
        assert time.monotonic() < deadline, f"no {awaited} within {TIMEOUT_S:g} s"
        time.sleep(pause_s)


def code(call: Callable[[], object]) -> grpc.StatusCode:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return caught.value.code()  # type: ignore[attr-defined]


def enrol(stub: Stub, ip: str) -> bytes:
    certificate = pem(make(ip)[0])
    assert stub.register(certificate) == (YES, "")
    assert stub.offer(ip, certificate) == (YES, "")
    return certificate


def machine(uuid: str | None = None, *interfaces: Any) -> Any:
    return wire.fleet.Machine(uuid=uuid or str(uuids.uuid4()), ifaces=interfaces)


def interface(name: str, *addresses: tuple[str, tuple[int, ...]]) -> Any:
    return wire.fleet.Iface(name=name, address=[
        wire.fleet.Address(ip=ip, ports=[wire.fleet.Port(port=port, service="ssh") for port in ports])
        for ip, ports in addresses
    ])


def rows(folder: Path, statement: str) -> list[Any]:
    with contextlib.closing(sqlite3.connect(folder / "store.db")) as connection:
        return connection.execute(statement).fetchall()


def test_01_checks(stub: Stub) -> None:
    assert stub.check("WorkerSaver") == stub.check("ServerDispatcher") == SERVING
    assert stub.check("FunctionDispatcher") == NOT_SERVING
    enrol(stub, "10.0.0.1")
    assert stub.check("FunctionDispatcher") == SERVING


def test_02_pem_and_der_are_one_server(stub: Stub, tmp_path: Path) -> None:
    certificate, _ = make()
    assert stub.register(pem(certificate)) == (YES, "")
    assert stub.register(der(certificate)) == (YES, "")
    assert rows(tmp_path, "SELECT count(*) FROM servers") == [(1,)]
    stub.offer("10.0.0.1", pem(certificate))
    assert stub.target(uuids.uuid4().bytes) == ("10.0.0.1", der(certificate))


def test_03_bad_certificates_are_not_stored(stub: Stub, tmp_path: Path) -> None:
    good, key = make()
    for data, reason in (
        (pem(make(days=(-9, -1))[0]), "expired"),
        (pem(make(days=(1, 9))[0]), "not_yet_valid"),
        (pem(make(key=small_rsa_key())[0]), "weak"),
        (b"", "malformed"),
        (pem(good)[:300], "malformed"),
        (bytes(65 << 10), "malformed"),
        (pem(good) + key_pem(key), "contains_private_key"),
    ):
        assert stub.register(data) == (NO, reason)
    assert rows(tmp_path, "SELECT count(*) FROM servers") == [(0,)]
    for path in tmp_path.iterdir():
        assert key_pem(key).splitlines()[1] not in path.read_bytes()


def test_04_authority(tmp_path: Path) -> None:
    root, root_key = make("authority", is_ca=True)
    (tmp_path / "ca.pem").write_bytes(pem(root))
    stranger, stranger_key = make("authority", is_ca=True)
    with fleet(tmp_path, fleet_ca=tmp_path / "ca.pem") as stub:
        assert stub.register(pem(make(issuer=root, issuer_key=root_key)[0])) == (YES, "")
        assert stub.register(pem(make(issuer=stranger, issuer_key=stranger_key)[0])) == (NO, "untrusted")


def test_05_offer_of_a_stranger(stub: Stub) -> None:
    assert stub.offer("10.0.0.1", pem(make()[0])) == (NO, "not_registered")


def test_06_addresses(stub: Stub) -> None:
    certificate = enrol(stub, "10.0.0.1")
    for ip in ("", "host", "1.2.3.4:80", "0.0.0.0", "224.0.0.1", "fe80::1", "::"):
        assert stub.offer(ip, certificate) == (NO, "bad_ip")
    assert stub.offer("::ffff:10.0.0.1", certificate) == (YES, "")
    assert stub.target(uuids.uuid4().bytes)[0] == "10.0.0.1"


def test_07_address_of_another(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.2", 0)) as there:
        there.setblocking(False)
        port = there.getsockname()[1]
        with fleet(tmp_path, fleet_ownership="strict", fleet_health="probe", fleet_server_port=port) as stub:
            certificate = pem(make()[0])
            assert stub.register(certificate) == (YES, "")
            for ip in ("127.0.0.2", "10.255.255.1"):
                assert stub.offer(ip, certificate) == (NO, "ip_mismatch")
            # An answer leaves when the probe has ended that it waits for: nobody has come to the door.
            with pytest.raises(BlockingIOError):
                there.accept()


def test_08_registered_but_not_offered(stub: Stub) -> None:
    stub.register(pem(make()[0]))
    assert code(lambda: stub.target(uuids.uuid4().bytes)) is grpc.StatusCode.UNAVAILABLE


def test_09_offer_twice(stub: Stub, tmp_path: Path) -> None:
    certificate = enrol(stub, "10.0.0.1")
    assert stub.offer("10.0.0.1", certificate) == (YES, "")
    assert rows(tmp_path, "SELECT ip, position FROM servers") == [("10.0.0.1", 1)]


def test_10_nine_machines_over_three_servers(stub: Stub) -> None:
    for number in range(1, 4):
        enrol(stub, f"10.0.0.{number}")
    given = Counter(stub.target(uuids.uuid4().bytes)[0] for _ in range(9))
    assert given == {"10.0.0.1": 3, "10.0.0.2": 3, "10.0.0.3": 3}


def test_11_one_uuid_in_every_spelling(stub: Stub) -> None:
    for number in range(1, 4):
        enrol(stub, f"10.0.0.{number}")
    uuid = uuids.uuid4()
    forms = [uuid.bytes, uuid.hex.encode(), uuid.hex.upper().encode(), str(uuid).encode(), str(uuid).upper().encode()]
    assert len({stub.target(form) for _ in range(20) for form in forms}) == 1


def test_12_machine_moves_once_when_its_server_is_lost(tmp_path: Path) -> None:
    with fleet(tmp_path, fleet_lease_s=1.0) as stub:
        first, second = enrol(stub, "10.0.0.1"), enrol(stub, "10.0.0.2")
        uuid = uuids.uuid4().bytes
        assert stub.target(uuid)[0] == "10.0.0.1"

        def moved() -> bool:
            stub.offer("10.0.0.2", second)
            return stub.target(uuid)[0] != "10.0.0.1"

        until(moved, "move to the other server", 0.2)  # a host may call ten times a second
        assert stub.offer("10.0.0.1", first) == (YES, "")
        assert stub.target(uuid)[0] == "10.0.0.2"


def test_13_no_server_and_no_uuid(stub: Stub) -> None:
    assert code(lambda: stub.target(uuids.uuid4().bytes)) is grpc.StatusCode.UNAVAILABLE
    enrol(stub, "10.0.0.1")
    for bad in (b"", bytes(15), bytes(16), b"\xff" * 16, b"z" * 36, b"0" * 32, str(uuids.uuid4()).encode() + b"\n",
                b"{" + str(uuids.uuid4()).encode() + b"}", b"urn:uuid:" + str(uuids.uuid4()).encode()):
        assert code(lambda bad=bad: stub.target(bad)) is grpc.StatusCode.INVALID_ARGUMENT  # type: ignore[misc]


def test_14_server_that_shows_another_leaf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runtime.fleet.fleet.PROBE_S", 0.2)
    pki_files.make_authority(tmp_path, "CA", 10)
    for name in ("one", "two"):
        pki_files.make_leaf(tmp_path, tmp_path, name, ["127.0.0.1"], 10)
    one = (tmp_path / "one.pem").read_bytes()

    def target(stub: Stub) -> str:
        with contextlib.suppress(grpc.RpcError):
            return stub.target(uuids.uuid4().bytes)[0]
        return "none"

    def serve(name: str, port: int = 0) -> runtime.Server:
        return runtime.Server(
            services=("fleet",), data_dir=tmp_path / "served", listen=f"127.0.0.1:{port}",
            tls_cert=tmp_path / f"{name}.pem", tls_key=tmp_path / f"{name}.key",
        )

    server = serve("one")
    port = int(server.address.rpartition(":")[2])
    try:
        options: dict[str, Any] = {"fleet_ownership": "strict", "fleet_health": "probe", "fleet_server_port": port}
        with fleet(tmp_path / "dispatcher", **options) as stub:
            assert stub.register(one) == (YES, "")
            assert stub.offer("127.0.0.1", one) == (YES, "")
            listener = server._listener
            assert listener is not None
            until(lambda: listener.account.num_calls >= 4, "probes")
            assert target(stub) == "127.0.0.1"
            server.stop(0)
            server = serve("two", port)
            until(lambda: target(stub) == "none", "end of the rotation", 0.1)
            assert rows(tmp_path / "dispatcher", "SELECT ip, cause FROM servers") == [(None, "cert_mismatch")]
            # What a machine does with the certificate that it was given: it trusts nothing else.
            context = ssl.create_default_context(cadata=ssl.DER_cert_to_PEM_cert(ssl.PEM_cert_to_DER_cert(
                one.decode())))
            context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
            with pytest.raises(ssl.SSLCertVerificationError), ssl.create_connection(("127.0.0.1", port)) as raw:  # type: ignore[attr-defined]
                context.wrap_socket(raw, server_hostname="127.0.0.1")
    finally:
        server.stop(0)


def test_15_report_round_trips(stub: Stub, tmp_path: Path) -> None:
    report = machine(None, interface("eth0", ("10.0.0.5", (22, 8080, 22)), ("fe80::1%eth0", ())), interface("lo"))
    assert stub.save(report) == (YES, "")
    stored = rows(tmp_path, "SELECT uuid, report, last_seen FROM machines")
    assert len(stored) == 1 and stored[0][0] == report.uuid
    assert '"ip":"10.0.0.5","ports":[[22,"ssh"],[8080,"ssh"]]' in stored[0][1]
    assert '"ip":"fe80::1"' in stored[0][1]
    assert stub.save(report) == (YES, "")
    again = rows(tmp_path, "SELECT uuid, report, last_seen FROM machines")
    assert again[0][:2] == stored[0][:2] and again[0][2] > stored[0][2]
    assert rows(tmp_path, "SELECT count(*) FROM reports") == [(1,)]


def test_16_bad_reports_change_nothing(stub: Stub, tmp_path: Path) -> None:
    uuid = str(uuids.uuid4())
    assert stub.save(machine(uuid, interface("eth0", ("10.0.0.5", (22,))))) == (YES, "")
    before = rows(tmp_path, "SELECT * FROM machines")
    for bad, reason in (
        (machine(uuid, interface("eth0", ("10.0.0.5", (0,)))), "bad_port"),
        (machine(uuid, interface("eth0", ("10.0.0.5", (65536,)))), "bad_port"),
        (machine(uuid, interface("eth0", ("10.0.0.5:1", ()))), "bad_ip"),
        (machine(uuid, interface("eth0"), interface("eth0")), "duplicate_iface"),
        (machine(uuid, interface("")), "bad_text"),
        (machine(uuid, interface("a\x1bb")), "bad_text"),
        (machine(uuid, interface("x" * 65)), "too_large"),
        (machine(uuid, *(interface(f"eth{n}") for n in range(65))), "too_large"),
        (machine(uuid, interface("eth0", *((f"10.0.1.{n}", ()) for n in range(65)))), "too_large"),
        (machine(uuid, interface("eth0", ("10.0.0.5", tuple(range(1, 1026))))), "too_large"),
        (machine(uuid, *(interface(f"e{n}", (f"10.0.0.{n}", tuple(range(1, 1000)))) for n in range(5))), "too_large"),
        (machine("0" * 32), "bad_uuid"),
        (machine("short"), "bad_uuid"),
        (None, "malformed"),
    ):
        assert stub.save(bad) == (NO, reason)
    assert rows(tmp_path, "SELECT * FROM machines") == before


def test_17_machine_belongs_to_the_first_credential(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    texts = [tokens.issue(path, "machine")[1] for _ in range(2)]
    report = machine(None, interface("eth0", ("10.0.0.5", ())))
    other = machine(report.uuid, interface("eth0", ("10.0.0.6", ())))
    with fleet(tmp_path, texts[0], token_file=path) as stub:
        assert stub.save(report) == (YES, "")
        stored = rows(tmp_path, "SELECT * FROM machines")
        assert Stub(stub._channel, texts[1]).save(other) == (NO, "wrong_owner")
        assert rows(tmp_path, "SELECT * FROM machines") == stored
        assert stub.save(other) == (YES, "")


def test_18_sizes_and_rates(tmp_path: Path) -> None:
    with fleet(tmp_path) as stub:
        assert code(lambda: stub.register(bytes(2 << 20))) is grpc.StatusCode.RESOURCE_EXHAUSTED
        uuid = uuids.uuid4().bytes
        with concurrent.futures.ThreadPoolExecutor(16) as pool:
            codes = Counter(pool.map(lambda _: code(lambda: stub.target(uuid)), range(200)))
        assert set(codes) == {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED}
        assert codes[grpc.StatusCode.UNAVAILABLE] >= 49
        # Checks cost nothing, and are for everybody.
        assert stub.check("WorkerSaver") == SERVING
        # Another host has all of its calls.
        with Streams(stub.address, source="127.0.0.2") as other:
            message = wire.fleet.GetTargetReq(uuid=uuid).SerializeToString()
            asked = [other.open("/pb.FunctionDispatcher/GetTarget") for _ in range(40)]
            for stream in asked:
                other.send(stream, message)
            assert {answer and answer[0] for answer in other.results(asked)} == {UNAVAILABLE}


def start_process(folder: Path) -> tuple[subprocess.Popen[str], str]:
    log = folder / "log"
    with open(log, "a") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "runtime.cli", "serve", "--listen", "127.0.0.1:0", "--services", "fleet",
             "--data-dir", str(folder), "--fleet-ownership", "off"],
            stdout=subprocess.PIPE, stderr=errors, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
    return process, read_ready(process, log, 20.0).removeprefix("grpc://")


def end(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=10)


def test_19_kill_and_restart(tmp_path: Path) -> None:
    tables = ("SELECT number, fingerprint, ip, position FROM servers", "SELECT * FROM assignments ORDER BY uuid",
              "SELECT uuid, report FROM machines ORDER BY uuid")
    process, address = start_process(tmp_path)
    try:
        known = [str(uuids.uuid4()) for _ in range(5)]
        with grpc.insecure_channel(address) as channel:
            stub = Stub(channel)
            certificates = [enrol(stub, f"10.0.0.{number}") for number in range(1, 4)]
            for uuid in known:
                assert stub.save(machine(uuid)) == (YES, "")
            given = {uuid: stub.target(uuid.encode()) for uuid in known}
        end(process)
        before = [rows(tmp_path, table) for table in tables]
        process, address = start_process(tmp_path)
        assert [rows(tmp_path, table) for table in tables] == before
        with grpc.insecure_channel(address) as channel:
            stub = Stub(channel)
            assert {uuid: stub.target(uuid.encode()) for uuid in known} == given
            assert stub.check("FunctionDispatcher") == NOT_SERVING
            for number, certificate in enumerate(certificates, 1):
                assert stub.offer(f"10.0.0.{number}", certificate) == (YES, "")
            assert stub.check("FunctionDispatcher") == SERVING
            assert {uuid: stub.target(uuid.encode()) for uuid in known} == given
        assert [rows(tmp_path, table) for table in tables] == before
    finally:
        end(process)


async def targets(address: str, number: int) -> list[int]:
    """Ask for the targets of so many strangers, and return the statuses."""
    connection = await connect(address)
    loop = asyncio.get_running_loop()
    method = Method("/pb.FunctionDispatcher/GetTarget", False, False, None)
    codes: list[int] = []
    ended = loop.create_future()

    def answered(_answer: bytes | None, code: int, _message: str, _trailers: object) -> None:
        codes.append(code)
        if len(codes) == number:
            ended.set_result(None)

    for _ in range(number):
        connection.start(method, wire.fleet.GetTargetReq(uuid=uuids.uuid4().bytes).SerializeToString(), answered)
    await asyncio.wait_for(ended, TIMEOUT_S)
    connection.close()
    return codes


def test_20_concurrent_first_calls_and_strangers(stub: Stub, tmp_path: Path) -> None:
    for number in range(1, 4):
        enrol(stub, f"10.0.0.{number}")
    uuid = str(uuids.uuid4())
    stub.save(machine(uuid))
    with concurrent.futures.ThreadPoolExecutor(20) as pool:
        assert len(set(pool.map(lambda _: stub.target(uuid.encode())[0], range(100)))) == 1
    size = sum(path.stat().st_size for path in tmp_path.iterdir())
    answers = asyncio.run(targets(stub.address, 10_000))
    assert set(answers) == {0}
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) == size
    assert len(rows(tmp_path, "SELECT * FROM assignments")) == 1
