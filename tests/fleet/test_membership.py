"""What a server does for its place in a fleet, and for its certificate, whatever a turn meets."""

from __future__ import annotations

import asyncio
import logging
import time
from pathlib import Path

import pytest

from runtime.config import Settings
from runtime.edge import own_certificate
from runtime.edge.own_certificate import OwnCertificate
from runtime.fleet import membership
from runtime.fleet.membership import Membership

TIMEOUT_S = 60
LEAF = b"-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n"


def mistakes(caplog: pytest.LogCaptureFixture) -> list[type[BaseException] | None]:
    return [record.exc_info[0] for record in caplog.records if record.levelno == logging.ERROR and record.exc_info]


def test_a_mistake_does_not_end_the_offers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(membership, "_FIRST_RETRY_S", 0.01)
    (tmp_path / "leaf.pem").write_bytes(LEAF)

    async def run() -> None:
        loop = asyncio.get_running_loop()
        offered = asyncio.Event()

        class Way:
            turns = 0

            def register(self, certificate: bytes) -> None:
                Way.turns += 1
                if Way.turns == 1:
                    raise ZeroDivisionError("a mistake")

            def offer(self, ip: str, certificate: bytes) -> None:
                loop.call_soon_threadsafe(offered.set)

            def close(self) -> None:
                pass

        task = asyncio.ensure_future(Membership(Way, "10.0.0.1", tmp_path / "leaf.pem", 60.0).run())
        try:
            await asyncio.wait_for(offered.wait(), TIMEOUT_S)
        finally:
            task.cancel()
            await asyncio.wait([task])

    asyncio.run(run())
    assert mistakes(caplog) == [ZeroDivisionError]


def test_a_mistake_does_not_end_the_renewing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(own_certificate, "_SHORTEST_S", 0.01)
    monkeypatch.setattr(own_certificate, "_LONGEST_S", 0.01)

    async def run() -> None:
        loop = asyncio.get_running_loop()
        kept = asyncio.Event()

        class Identity:
            turns = 0

            def keep(self) -> None:
                self.turns += 1
                if self.turns == 1:
                    raise ZeroDivisionError("a mistake")
                loop.call_soon_threadsafe(kept.set)

            def renewal_due(self) -> float:
                return time.time() + 60

        certificate = OwnCertificate(Settings(data_dir=tmp_path, enrol_with="grpcs://127.0.0.1:1"))
        monkeypatch.setattr(certificate, "_identity", Identity())
        task = asyncio.ensure_future(certificate._keep())
        try:
            await asyncio.wait_for(kept.wait(), TIMEOUT_S)
        finally:
            task.cancel()
            await asyncio.wait([task])

    asyncio.run(run())
    assert mistakes(caplog) == [ZeroDivisionError]
