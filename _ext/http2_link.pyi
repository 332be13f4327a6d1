from asyncio import AbstractEventLoop
from typing import Any

from typing_extensions import disjoint_base

@disjoint_base
class Link:
    def __init__(self, service: Any, loop: AbstractEventLoop) -> None: ...
    @property
    def service(self) -> Any: ...
    def pump_soon(self) -> None: ...
