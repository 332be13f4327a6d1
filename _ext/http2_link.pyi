from asyncio import AbstractEventLoop
from typing import Any

from typing_extensions import disjoint_base

@disjoint_base
class Tally:
    connections: int
    calls: int
    def __init__(self, name: str, max_calls: int) -> None: ...
    @property
    def name(self) -> str: ...
    @property
    def max_calls(self) -> int: ...

@disjoint_base
class Link:
    peer: Tally | None
    whole: Tally | None
    def __init__(self, service: Any, loop: AbstractEventLoop) -> None: ...
    @property
    def service(self) -> Any: ...
    @property
    def last_activity(self) -> float: ...
    def pump_soon(self) -> None: ...
