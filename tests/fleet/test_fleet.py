"""What a fleet does beside the calls."""

from __future__ import annotations

import asyncio
import logging
import time
from pathlib import Path

import pytest

from runtime.fleet.addresses import parse_networks
from runtime.fleet.certificates import CertificatePolicy
from runtime.fleet.dispatcher import DispatchRules, ProbeResult
from runtime.fleet.fleet import Fleet
from runtime.store.sqlite.fleet_tables import FleetTables
from runtime.store.sqlite.store import SqliteStore

TIMEOUT_S = 60


@pytest.mark.parametrize("work", ["sweep", "probed"])
def test_a_mistake_in_one_turn_does_not_end_the_turns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, work: str
) -> None:
    monkeypatch.setattr("runtime.fleet.fleet.SWEEP_S", 0.01)
    monkeypatch.setattr("runtime.fleet.fleet.PROBE_S", 0.01)

    async def prober(ip: str, leaf: bytes) -> ProbeResult:
        raise AssertionError(f"no server is there, {ip} was asked")

    async def run() -> None:
        store = SqliteStore(tmp_path / "store.db", [FleetTables], threads=False)
        rules = DispatchRules(parse_networks(["private"]), False, 90.0)
        fleet = Fleet(store.plane(FleetTables), CertificatePolicy(None, None, time.time), rules, prober)
        turns = 0
        enough = asyncio.Event()

        def turn() -> None:
            nonlocal turns
            turns += 1
            if turns == 1:
                raise ZeroDivisionError("a mistake")
            enough.set()

        async def sweep() -> None:
            turn()

        def probed() -> list[int]:
            turn()
            return []

        monkeypatch.setattr(fleet.dispatcher, work, {"sweep": sweep, "probed": probed}[work])
        fleet.start()
        try:
            await asyncio.wait_for(enough.wait(), TIMEOUT_S)
        finally:
            await fleet.stop()
            await store.close()

    asyncio.run(run())
    told = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert len(told) == 1 and told[0].exc_info is not None and told[0].exc_info[0] is ZeroDivisionError
