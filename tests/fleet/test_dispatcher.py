"""Enrolment, offers, rotation, assignments and health, on a clock that the tests turn."""

from __future__ import annotations

import asyncio
import uuid as uuids
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from runtime.errors import ResourceExhausted, Unavailable
from runtime.fleet import dispatcher as dispatching
from runtime.fleet.addresses import parse_networks
from runtime.fleet.certificates import CertificatePolicy
from runtime.fleet.dispatcher import Dispatcher, DispatchRules, ProbeResult
from runtime.fleet.model import Caller, Health, MachineReport
from runtime.fleet.refusals import Refused
from runtime.store import failpoints
from runtime.store.sqlite.fleet_tables import FleetTables
from runtime.store.sqlite.store import SqliteStore
from tests.fleet.certificates import make, pem

START = 1_800_000_000.0


class World:
    """A dispatcher on a file, with a clock and servers that answer probes as told."""

    def __init__(self, path: Path, *, strict: bool = False, probes: bool = False, lease_s: float = 90.0) -> None:
        self.now = START
        self.path = path
        self.known: set[str] = set()
        self.answers: dict[str, ProbeResult] = {}
        self.probed: list[str] = []
        self._rules = DispatchRules(parse_networks(["private", "127.0.0.0/8"]), strict, lease_s)
        self._probes = probes
        self.open()

    def open(self) -> None:
        self.store = SqliteStore(self.path, [FleetTables], threads=False)
        self.rows = self.store.plane(FleetTables)
        self.dispatcher = Dispatcher(
            self.rows, CertificatePolicy(None, None, lambda: self.now), self._rules, lambda: self.now,
            self._probe if self._probes else None, self.known.__contains__,
        )

    async def reopen(self) -> None:
        await self.store.close()
        self.open()

    async def _probe(self, ip: str, leaf: bytes) -> ProbeResult:
        self.probed.append(ip)
        await asyncio.sleep(0)
        return self.answers[ip]

    async def server(self, ip: str, caller: Caller | None = None, **options: Any) -> bytes:
        """Enrol a server and have it offer an address; return its certificate."""
        data = pem(make(ip, now=self.now, **options)[0])
        await self.dispatcher.register(data, caller or Caller())
        await self.dispatcher.offer(ip, data, caller or Caller())
        return data

    async def ip_of(self, uuid: str) -> str | None:
        return (await self.dispatcher.target(uuid)).ip

    def health(self, ip: str) -> Health:
        return next(health for server, health in self.dispatcher.servers() if server.ip == ip)


def new_uuid() -> str:
    return str(uuids.uuid4())


def run(path: Path, work: Callable[[World], Awaitable[None]], **options: Any) -> None:
    async def main() -> None:
        world = World(path / "store.db", **options)
        try:
            await work(world)
        finally:
            await world.store.close()

    asyncio.run(main())


async def refused(call: Awaitable[Any]) -> str:
    with pytest.raises(Refused) as caught:
        await call
    return caught.value.cause


def test_same_leaf_is_one_server_and_a_renewed_one_keeps_its_place(tmp_path: Path) -> None:
    async def work(world: World) -> None:
        first, key = make("a", now=world.now)
        await world.dispatcher.register(pem(first), Caller())
        await world.dispatcher.register(pem(first), Caller())
        await world.dispatcher.offer("10.0.0.1", pem(first), Caller())
        machine = new_uuid()
        world.known.add(machine)
        assert await world.ip_of(machine) == "10.0.0.1"
        renewed, _ = make("a", key=key, now=world.now)
        await world.dispatcher.register(pem(renewed), Caller())
        assert len(world.dispatcher.servers()) == 1
        target = await world.dispatcher.target(machine)
        assert target.ip == "10.0.0.1" and target.certificate.as_sent == pem(renewed)
        assert await refused(world.dispatcher.offer("10.0.0.1", pem(first), Caller())) == "not_registered"
        # Authenticated with the old one, a new key is still the same server.
        other, _ = make("a", now=world.now)
        caller = Caller(certificate=world.dispatcher.servers()[0][0].certificate.fingerprint)
        await world.dispatcher.register(pem(other), caller)
        assert len(world.dispatcher.servers()) == 1
        await world.dispatcher.register(pem(make("a", now=world.now)[0]), Caller())
        assert len(world.dispatcher.servers()) == 2

    run(tmp_path, work)


def test_rotation_is_even_and_sticky(tmp_path: Path) -> None:
    async def work(world: World) -> None:
        ips = ["10.0.0.1", "10.0.0.2", "10.0.0.3"]
        for ip in ips:
            await world.server(ip)
        machines = [new_uuid() for _ in range(10)]
        world.known.update(machines[:5])
        given = {machine: await world.ip_of(machine) for machine in machines}
        assert sorted(Counter(given.values()).values()) == [3, 3, 4]
        await world.server("10.0.0.4")
        for machine in machines:
            assert await world.ip_of(machine) == given[machine]

    run(tmp_path, work)


def test_one_answer_for_concurrent_first_calls(tmp_path: Path) -> None:
    async def work(world: World) -> None:
        for number in range(1, 4):
            await world.server(f"10.0.0.{number}")
        for machine in (new_uuid(), new_uuid()):
            world.known.add(machine)
            answers = await asyncio.gather(*(world.ip_of(machine) for _ in range(100)))
            assert len(set(answers)) == 1
        assert len(world.rows.read(lambda rows: rows.assignments())) == 2

    run(tmp_path, work)


def test_lease_that_runs_out_moves_machines_once(tmp_path: Path) -> None:
    async def work(world: World) -> None:
        first, second = await world.server("10.0.0.1"), await world.server("10.0.0.2")
        machine = new_uuid()
        world.known.add(machine)
        was = await world.ip_of(machine)
        stays, goes = (second, first) if was == "10.0.0.1" else (first, second)
        other = "10.0.0.2" if was == "10.0.0.1" else "10.0.0.1"
        for _ in range(2):
            world.now += 80
            await world.dispatcher.offer(other, stays, Caller())
        assert world.health(was or "") is Health.UNHEALTHY
        assert await world.ip_of(machine) == other
        assert was is not None
        await world.dispatcher.offer(was, goes, Caller())
        assert world.health(was) is Health.HEALTHY
        assert await world.ip_of(machine) == other
        world.now += 200
        with pytest.raises(Unavailable):
            await world.dispatcher.target(machine)

    run(tmp_path, work)


def test_restart_moves_no_machine(tmp_path: Path) -> None:
    async def work(world: World) -> None:
        datas = [await world.server(f"10.0.0.{number}") for number in range(1, 4)]
        machines = [new_uuid() for _ in range(7)]
        world.known.update(machines)
        given = {machine: await world.ip_of(machine) for machine in machines}
        order = [server.position for server, _ in world.dispatcher.servers()]
        world.now += 1000
        await world.reopen()
        assert [server.position for server, _ in world.dispatcher.servers()] == order
        assert {health for _, health in world.dispatcher.servers()} == {Health.PENDING}
        for machine in machines:
            assert await world.ip_of(machine) == given[machine]
        with pytest.raises(Unavailable):
            await world.dispatcher.target(new_uuid())
        for number, data in enumerate(datas, 1):
            await world.dispatcher.offer(f"10.0.0.{number}", data, Caller())
        assert [server.position for server, _ in world.dispatcher.servers()] == order
        # The rotation goes on where it was: eight machines over three servers.
        assert sorted(Counter([*given.values(), await world.ip_of(new_uuid())]).values()) == [2, 3, 3]
        world.now += 121
        with pytest.raises(Unavailable):
            await world.dispatcher.target(machines[0])

    run(tmp_path, work)


def test_offers_that_are_refused(tmp_path: Path) -> None:
    async def work(world: World) -> None:
        data = await world.server("10.0.0.1")
        offer = world.dispatcher.offer
        for ip in ("", "host", "1.2.3.4:80", "[::1]", " 10.0.0.1", "0.0.0.0", "224.0.0.1", "fe80::1", "fe80::1%eth0",
                   "::", "255.255.255.255", "192.0.2.1", "2001:db8::1", "240.0.0.1", "0.1.2.3", "10.0.0.1\x00",
                   "١٠.0.0.1"):
            assert await refused(offer(ip, data, Caller())) == "bad_ip", ip
        assert await refused(offer("::1", data, Caller())) == "bad_ip"
        assert await refused(offer("10.0.0.1", pem(make()[0]), Caller())) == "not_registered"
        assert await refused(offer("10.0.0.1", b"", Caller())) == "malformed"
        assert (await offer("::ffff:10.0.0.1", data, Caller())).ip == "10.0.0.1"
        assert len(world.dispatcher.servers()) == 1
        world.now += 40 * 86400
        assert await refused(offer("10.0.0.1", data, Caller())) == "expired"

    run(tmp_path, work)


def test_one_address_per_server_and_one_server_per_address(tmp_path: Path) -> None:
    async def work(world: World) -> None:
        first = await world.server("10.0.0.1")
        await world.dispatcher.offer("10.0.0.9", first, Caller())
        assert [server.ip for server, _ in world.dispatcher.servers()] == ["10.0.0.9"]
        machine = new_uuid()
        world.known.add(machine)
        assert await world.ip_of(machine) == "10.0.0.9"
        await world.server("10.0.0.9")
        (left, health), (taken, _) = world.dispatcher.servers()
        assert (left.ip, left.cause, health) == (None, "replaced", Health.ENROLLED)
        assert (await world.dispatcher.target(machine)).number == taken.number

    run(tmp_path, work)


def test_strict_ownership(tmp_path: Path) -> None:
    async def work(world: World) -> None:
        data = pem(make("a", ips=["10.0.0.7"], now=world.now)[0])
        mine = Caller("10.0.0.5", "token:a")
        server = await world.dispatcher.register(data, mine)
        offer = world.dispatcher.offer
        assert await refused(offer("10.0.0.6", data, mine)) == "ip_mismatch"
        assert await refused(offer("10.0.0.5", data, Caller("10.0.0.5", "token:b"))) == "unproven"
        assert await refused(offer("10.0.0.5", data, Caller("10.0.0.5"))) == "unproven"
        for ip, caller in (
            ("10.0.0.5", mine),
            ("10.0.0.7", mine),
            ("10.0.0.6", Caller("10.0.0.5", "token:a", None, parse_networks(["10.0.0.0/29"]))),
            ("10.0.0.5", Caller("10.0.0.5", None, server.certificate.fingerprint)),
        ):
            assert (await offer(ip, data, caller)).ip == ip

    run(tmp_path, work, strict=True)


def test_registered_without_offer_is_never_a_target(tmp_path: Path) -> None:
    async def work(world: World) -> None:
        await world.dispatcher.register(pem(make(now=world.now)[0]), Caller())
        assert not world.dispatcher.has_healthy()
        with pytest.raises(Unavailable):
            await world.dispatcher.target(new_uuid())

    run(tmp_path, work)


def test_probes_prove_ownership_and_decide_health(tmp_path: Path) -> None:
    async def work(world: World) -> None:
        world.answers = {"10.0.0.1": ProbeResult(False, False, "another"), "10.0.0.2": ProbeResult(True, True)}
        data = pem(make("a", now=world.now)[0])
        await world.dispatcher.register(data, Caller())
        assert await refused(world.dispatcher.offer("10.0.0.1", data, Caller("10.0.0.1"))) == "unproven"
        assert await refused(world.dispatcher.offer("10.0.0.3", data, Caller("10.0.0.1"))) == "ip_mismatch"
        assert "10.0.0.3" not in world.probed
        world.answers["10.0.0.1"] = ProbeResult(True, True)
        await world.dispatcher.offer("10.0.0.1", data, Caller("10.0.0.1"))
        await world.server("10.0.0.2", Caller("10.0.0.2"))
        world.now += 10_000
        assert {health for _, health in world.dispatcher.servers()} == {Health.HEALTHY}
        first, second = world.dispatcher.probed()
        world.answers["10.0.0.1"] = ProbeResult(None, False, "silent")
        for expected in (Health.HEALTHY, Health.HEALTHY, Health.UNHEALTHY):
            await world.dispatcher.probe(first)
            assert world.health("10.0.0.1") is expected
        assert await world.ip_of(new_uuid()) == "10.0.0.2"
        world.answers["10.0.0.1"] = ProbeResult(True, True)
        for expected in (Health.UNHEALTHY, Health.HEALTHY):
            await world.dispatcher.probe(first)
            assert world.health("10.0.0.1") is expected
        world.answers["10.0.0.2"] = ProbeResult(False, False, "another")
        await world.dispatcher.probe(second)
        left = world.dispatcher.servers()[1][0]
        assert (left.ip, left.cause) == (None, "cert_mismatch")

    run(tmp_path, work, strict=True, probes=True)


def test_time_removes_servers(tmp_path: Path) -> None:
    async def work(world: World) -> None:
        await world.dispatcher.register(pem(make("idle", now=world.now, days=(-1, 300))[0]), Caller())
        await world.server("10.0.0.1", days=(-1, 300))
        short = await world.server("10.0.0.2", days=(-1, 2))
        machine = new_uuid()
        world.known.add(machine)
        await world.dispatcher.target(machine)
        world.now += 130
        await world.dispatcher.sweep()
        world.now += 25 * 3600
        await world.dispatcher.sweep()
        assert [(server.ip, server.cause) for server, _ in world.dispatcher.servers()] == [
            (None, "unhealthy for a day"), (None, "unhealthy for a day")
        ]
        assert world.rows.read(lambda rows: rows.assignments()) == []
        await world.dispatcher.offer("10.0.0.2", short, Caller())
        world.now += 86400
        await world.dispatcher.sweep()
        assert [server.cause for server, _ in world.dispatcher.servers()] == ["unhealthy for a day", "expired"]
        world.now += 8 * 86400
        await world.dispatcher.sweep()
        assert [server.number for server, _ in world.dispatcher.servers()] == [2]
        await world.reopen()
        assert [server.number for server, _ in world.dispatcher.servers()] == [2]

    run(tmp_path, work)


def test_no_more_than_a_bounded_number_of_servers_and_strangers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work(world: World) -> None:
        monkeypatch.setattr(dispatching, "MAX_SERVERS", 2)
        monkeypatch.setattr(dispatching, "MAX_STRANGERS", 10)
        await world.server("10.0.0.1")
        await world.server("10.0.0.2")
        assert await refused(world.dispatcher.register(pem(make(now=world.now)[0]), Caller())) == "full"
        for _ in range(50):
            await world.dispatcher.target(new_uuid())
        assert len(world.dispatcher._strangers) == 10
        assert world.rows.read(lambda rows: rows.assignments()) == []

    run(tmp_path, work)


def test_assignment_of_a_stranger_stays_when_it_reports_itself(tmp_path: Path) -> None:
    async def work(world: World) -> None:
        await world.server("10.0.0.1")
        await world.server("10.0.0.2")
        machine = new_uuid()
        given = await world.ip_of(machine)
        await world.dispatcher.target(new_uuid())
        world.known.add(machine)
        await world.dispatcher.adopt(machine)
        assert len(world.rows.read(lambda rows: rows.assignments())) == 1
        await world.reopen()
        assert await world.ip_of(machine) == given

    run(tmp_path, work)


@pytest.mark.parametrize("place", ["store.begin", "store.commit.before"])
def test_full_disk_changes_nothing_and_recovers(tmp_path: Path, place: str) -> None:
    async def work(world: World) -> None:
        data = await world.server("10.0.0.1")
        fresh = pem(make(now=world.now)[0])
        machine = new_uuid()
        world.known.add(machine)
        failpoints.set_failpoint(place, "fail:ENOSPC")
        try:
            for call in (
                world.dispatcher.register(fresh, Caller()),
                world.dispatcher.offer("10.0.0.2", data, Caller()),
                world.dispatcher.target(machine),
            ):
                with pytest.raises(ResourceExhausted):
                    await call
        finally:
            failpoints.clear()
        assert [server.ip for server, _ in world.dispatcher.servers()] == ["10.0.0.1"]
        assert await world.ip_of(machine) == "10.0.0.1"
        await world.dispatcher.register(fresh, Caller())
        await world.reopen()
        assert [server.ip for server, _ in world.dispatcher.servers()] == ["10.0.0.1", None]

    run(tmp_path, work)


def test_report_text_survives_the_store() -> None:
    report = MachineReport("a", (), "x\ny")
    assert MachineReport.from_json(report.to_json()) == report
