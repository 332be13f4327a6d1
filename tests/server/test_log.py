from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest

from runtime import log


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield io.StringIO()
    root.handlers[:] = handlers
    root.setLevel(level)


def test_text_lines_hold_the_fields(stream: io.StringIO) -> None:
    log.configure("info", "text", stream)
    logging.getLogger("some.where").info("done with %d", 3, extra={"address": "a:1", "note": 'two "words"'})
    logging.getLogger("some.where").debug("not seen")
    stamp, rest = stream.getvalue().split(" ", 1)
    assert stamp.endswith("Z")
    assert rest == 'INFO some.where done with 3 address=a:1 note="two \\"words\\""\n'


def test_field_cannot_forge_a_line(stream: io.StringIO) -> None:
    log.configure("info", "text", stream)
    logging.getLogger("x").info("call", extra={"name_given": "a\n2030 ERROR forged"})
    assert stream.getvalue().count("\n") == 1


def test_json_lines_are_objects(stream: io.StringIO) -> None:
    log.configure("warning", "json", stream)
    try:
        raise ValueError("bad")
    except ValueError:
        logging.getLogger("x").exception("it broke", extra={"step": 7, "level": "mine"})
    entry = json.loads(stream.getvalue())
    assert (entry["level"], entry["logger"], entry["message"], entry["step"]) == ("error", "x", "it broke", 7)
    assert "ValueError: bad" in entry["traceback"]


def test_flood_of_one_line_is_thinned_and_counted(stream: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(log.time, "monotonic", lambda: now[0])
    log.configure("info", "text", stream)
    logging.getLogger().handlers[0].addFilter(log.RateLimit(1.0))
    logger = logging.getLogger("flood")
    for number in range(10):
        logger.warning("again %d", number)
    logger.warning("another")
    now[0] += 2
    logger.warning("again %d", 10)
    lines = [line.split(" ", 2)[2] for line in stream.getvalue().splitlines()]
    assert lines == ["flood again 0", "flood another", "flood again 10 held_back=9"]
