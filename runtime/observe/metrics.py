"""What a server has counted and holds, as plain values, and their text for a system that collects them.

Each plane makes its families when it is asked, from counters that it has anyway and from what is few, such as workers;
no step, task or command is looked for that waits or has ended.
`runtime.observe.metrics_service` translates. The text is that of the OpenMetrics 1.0 specification, or Prometheus's
older one (0.0.4), which differs in the names of counters.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from runtime._ext.errors import InvalidArgument

__all__ = ["PREFIX", "Family", "Kind", "Sample", "counter", "gauge", "labelled", "metrics_text"]

PREFIX = "tensor_runtime_"
"""Of every name: those of process values, too, so that the file of a server never meets the collector's own."""

_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*", re.ASCII)
_LABEL = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*", re.ASCII)


class Kind(StrEnum):
    """What becomes of a value: a gauge goes up and down, a counter up from 0 at the start of the process."""

    GAUGE = "gauge"
    COUNTER = "counter"


@dataclass(frozen=True, slots=True)
class Sample:
    """A value with what it is of.

    Attributes
    ----------
    value : float
    labels : tuple of (str, str)
        Names and values; any text is a value.
    """

    value: float
    labels: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Family:
    """Samples of one name.

    Attributes
    ----------
    name : str
        Without the ``_total`` of a counter's samples; ends with ``_`` and the unit, if there is one.
    help : str
        One sentence.
    kind : Kind
    unit : str
        ``bytes`` or ``seconds``; empty for a number.
    samples : tuple of Sample
        With different labels.
    """

    name: str
    help: str
    kind: Kind
    unit: str = ""
    samples: tuple[Sample, ...] = ()


def gauge(name: str, help_text: str, value: float | Mapping[str, float], label: str = "", unit: str = "") -> Family:
    """Return a family of what goes up and down.

    Parameters
    ----------
    name : str
        Without the prefix and the unit.
    help_text : str
    value : float or mapping of str to float
        One sample, or one for each value of the label.
    label : str
        Name of the label, with a mapping.
    unit : str
    """
    return _family(Kind.GAUGE, name, help_text, value, label, unit)


def counter(name: str, help_text: str, value: float | Mapping[str, float], label: str = "", unit: str = "") -> Family:
    """Return a family of what only goes up; parameters as for `gauge`."""
    return _family(Kind.COUNTER, name, help_text, value, label, unit)


def _family(
    kind: Kind, name: str, help_text: str, value: float | Mapping[str, float], label: str, unit: str
) -> Family:
    if isinstance(value, Mapping):
        samples = tuple(Sample(number, ((label, text),)) for text, number in value.items())
    else:
        samples = (Sample(value),)
    return Family(f"{PREFIX}{name}{unit and '_'}{unit}", help_text, kind, unit, samples)


def labelled(families: Iterable[Family], labels: Sequence[tuple[str, str]]) -> list[Family]:
    """Return families with more labels, put first in every sample.

    Raises
    ------
    InvalidArgument
        If a name is none that a label can have, or comes twice.
    """
    more = tuple(labels)
    for name, _ in more:
        _check_label(name)
    found = [replace(family, samples=tuple(Sample(one.value, (*more, *one.labels)) for one in family.samples))
             for family in families]
    for family in found:
        for sample in family.samples:
            _check_distinct(family.name, sample)
    return found


def metrics_text(families: Iterable[Family], *, classic: bool = False) -> str:
    """Return the text of families, ``\\n`` at its end.

    Parameters
    ----------
    families : iterable of Family
        With different names.
    classic : bool
        In Prometheus's text format 0.0.4 instead of OpenMetrics 1.0.

    Raises
    ------
    InvalidArgument
        If a name is not one that the format allows, or comes twice.
    """
    lines: list[str] = []
    seen: set[str] = set()
    for family in families:
        if not _NAME.fullmatch(family.name):
            raise InvalidArgument(f"name: {family.name!r} cannot be a metric's name, which has ASCII letters, digits, "
                                  "_ and : and begins with no digit")
        if family.name in seen:
            raise InvalidArgument(f"name: {family.name!r} comes twice; the samples of one name belong in one family")
        if family.unit and not family.name.endswith(f"_{family.unit}"):
            raise InvalidArgument(f"name: {family.name!r} must end with its unit, _{family.unit}")
        seen.add(family.name)
        series = f"{family.name}_total" if family.kind is Kind.COUNTER else family.name
        head = series if classic else family.name
        lines.append(f"# TYPE {head} {family.kind}")
        if family.unit and not classic:
            lines.append(f"# UNIT {head} {family.unit}")
        lines.append(f"# HELP {head} {_escaped(family.help, quotes=not classic)}")
        for sample in family.samples:
            _check_distinct(family.name, sample)
            lines.append(f"{series}{_labels(sample)} {_number(sample.value)}")
    if not classic:
        lines.append("# EOF")
    return "".join(f"{line}\n" for line in lines)


def _labels(sample: Sample) -> str:
    if not sample.labels:
        return ""
    for name, _ in sample.labels:
        _check_label(name)
    return "{" + ",".join(f'{name}="{_escaped(value)}"' for name, value in sample.labels) + "}"


def _escaped(text: str, *, quotes: bool = True) -> str:
    text = text.replace("\\", "\\\\").replace("\n", "\\n")
    return text.replace('"', '\\"') if quotes else text


def _number(value: float) -> str:
    """Return a number so that it is read as the same one."""
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    if math.isnan(value):
        return "NaN"
    return str(int(value)) if value == int(value) and abs(value) < 1 << 53 else repr(float(value))


def _check_label(name: str) -> None:
    if not _LABEL.fullmatch(name) or name.startswith("__"):
        raise InvalidArgument(f"label: {name!r} cannot be a label's name, which has ASCII letters, digits and _, and "
                              "begins with no digit and no two _")


def _check_distinct(family: str, sample: Sample) -> None:
    names = [name for name, _ in sample.labels]
    if len(set(names)) != len(names):
        raise InvalidArgument(f"label: a sample of {family} has one name twice: {', '.join(names)}; choose "
                              "another name")
