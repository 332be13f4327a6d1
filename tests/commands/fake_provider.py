"""A provider that only keeps a record, and fails when it is told to."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from runtime.errors import Error, FailedPrecondition
from runtime.providers import base
from runtime.providers.base import Flavor, Surroundings, WorkerSpec, parse_flavor


class FakeProvider:
    """Its workers are names in `alive`; whoever makes a test plays them."""

    last: FakeProvider

    def __init__(self, surroundings: Surroundings) -> None:
        self.prefix = surroundings.prefix
        self.alive: dict[str, str] = {}
        self.asked: list[tuple[str, str]] = []
        self.specs: list[WorkerSpec] = []
        self.failures: list[Error] = []
        self.unusable = ""
        self.delay_s = 0.0
        self.on_create: Callable[[WorkerSpec], None] = lambda spec: None
        FakeProvider.last = self

    def flavors(self) -> Sequence[str]:
        return ["default", "cpu1", "cpu2"]

    def regions(self) -> Sequence[str]:
        return ["near", "far"]

    def flavor(self, name: str) -> Flavor:
        return parse_flavor(name)

    def check(self) -> None:
        if self.unusable:
            raise FailedPrecondition(self.unusable)

    async def create(self, spec: WorkerSpec) -> str:
        self.asked.append(("create", spec.name))
        await asyncio.sleep(self.delay_s)
        if self.failures:
            raise self.failures.pop(0)
        self.specs.append(spec)
        self.alive[spec.name] = handle = f"handle of {spec.name}"
        self.on_create(spec)
        return handle

    async def restart(self, spec: WorkerSpec, handle: str) -> str:
        self.asked.append(("restart", spec.name))
        self.alive.pop(spec.name, None)
        return await self.create(spec)

    async def delete(self, name: str, handle: str) -> None:
        self.asked.append(("delete", name))
        self.alive.pop(name, None)

    async def is_alive(self, name: str, handle: str) -> bool:
        return name in self.alive

    async def list(self) -> Mapping[str, str]:
        return {name: handle for name, handle in self.alive.items() if name.startswith(self.prefix)}


@contextmanager
def installed() -> Iterator[None]:
    """Let servers have the provider ``fake``."""
    base.PROVIDERS["fake"] = "tests.commands.fake_provider:FakeProvider"
    try:
        yield
    finally:
        del base.PROVIDERS["fake"]
