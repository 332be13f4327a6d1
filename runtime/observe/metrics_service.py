"""runtime.v1.Observer.GetMetrics: what a server has counted and holds, for whoever collects it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

from google.protobuf.message import DecodeError

from runtime import wire
from runtime._ext.errors import Error, InvalidArgument
from runtime.observe.metrics import Family, Kind, Sample

__all__ = ["MetricsService", "Part", "families_of"]

logger = logging.getLogger(__name__)

Part = Callable[[], Awaitable[Iterable[Family]]]
"""``await part()``: the families of one plane, or of the server itself."""

# By name: of an enum, the wire module makes values when they are first asked for.
_KIND = {Kind.GAUGE: "METRIC_KIND_GAUGE", Kind.COUNTER: "METRIC_KIND_COUNTER"}


class MetricsService:
    """The handler of GetMetrics.

    Parameters
    ----------
    parts : callable
        Returns by name those who have families to tell.

    Notes
    -----
    All parts are asked at the same time. One that fails is told as missing; the others are told all the same.

    Concurrency: everything runs on one event loop.
    """

    def __init__(self, parts: Callable[[], Mapping[str, Part]]) -> None:
        self._parts = parts

    async def get_metrics(self, request: bytes, context: Any) -> bytes:
        """GetMetrics: of this server alone."""
        try:
            wire.runtime_v1.MetricsRequest.FromString(request)
        except DecodeError as error:
            raise InvalidArgument(f"the request is no runtime.v1.MetricsRequest message: {error}") from None
        parts = self._parts()
        told = await asyncio.gather(*(part() for part in parts.values()), return_exceptions=True)
        response = wire.runtime_v1.MetricsResponse()
        for name, found in zip(parts, told, strict=True):
            if isinstance(found, Error):
                response.missing.add(plane=name, error=found.message)
            elif isinstance(found, Exception):
                logger.error("the metrics of a plane could not be told", extra={"plane": name}, exc_info=found)
                response.missing.add(plane=name, error=f"{type(found).__name__}: see the server's log")
            elif isinstance(found, BaseException):
                raise found
            else:
                response.family.extend(map(_message, found))
        return response.SerializeToString()


def _message(family: Family) -> Any:
    message = wire.runtime_v1.MetricFamily(name=family.name, help=family.help, kind=_KIND[family.kind],
                                           unit=family.unit)
    for sample in family.samples:
        added = message.sample.add(value=sample.value)
        for name, value in sample.labels:
            added.label.add(name=name, value=value)
    return message


def families_of(response: Any) -> list[Family]:
    """Return the families of a MetricsResponse; one of a kind that this version does not know is a gauge."""
    is_counter = wire.runtime_v1.METRIC_KIND_COUNTER
    return [Family(one.name, one.help, Kind.COUNTER if one.kind == is_counter else Kind.GAUGE, one.unit,
                   tuple(Sample(sample.value, tuple((label.name, label.value) for label in sample.label))
                         for sample in one.sample))
            for one in response.family]
