"""The text of metrics against the grammar of OpenMetrics, and what their values follow."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import math
import re
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest

import runtime
from runtime import wire
from runtime.cli import main
from runtime.client.channels import Access
from runtime.client.metrics import fetch_metrics
from runtime.errors import InvalidArgument, Unavailable
from runtime.observe.metrics import Family, Kind, Sample, counter, gauge, labelled, metrics_text
from runtime.observe.metrics_service import MetricsService, Part, families_of

NOBODY = Access()
Values = dict[tuple[str, frozenset[tuple[str, str]]], float]


def parse(text: str) -> tuple[dict[str, dict[str, str]], Values]:
    """Read OpenMetrics text by its grammar: what is said of each family, and every sample by name and labels."""
    assert text.endswith("# EOF\n") and text.count("# EOF") == 1
    families: dict[str, dict[str, str]] = {}
    values: Values = {}
    current = ""
    for line in text.removesuffix("# EOF\n").splitlines():
        said = re.fullmatch(r"# (TYPE|UNIT|HELP) ([a-zA-Z_:][a-zA-Z0-9_:]*) (.*)", line)
        if said:
            what, name, rest = said.groups()
            if name != current:
                assert name not in families, f"{name} is not in one piece"
                current = name
                families[name] = {}
            assert what not in families[name], f"{what} of {name} is said twice"
            families[name][what] = unescaped(rest) if what == "HELP" else rest
            continue
        found = re.fullmatch(r"([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? (\S+)", line)
        assert found, f"no line of the grammar: {line!r}"
        name, labels, number = found.groups()
        kind = families[current]["TYPE"]
        assert name == (f"{current}_total" if kind == "counter" else current)
        assert re.fullmatch(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?|[+-]?Inf|NaN", number)
        key = name, frozenset(pairs(labels or ""))
        assert key not in values, f"{key} comes twice"
        values[key] = float(number)
        assert kind != "counter" or values[key] >= 0
    for name, said_of in families.items():
        unit = said_of.get("UNIT", "")
        assert not unit or name.endswith(f"_{unit}")
    return families, values


def pairs(text: str) -> list[tuple[str, str]]:
    """Read labels, one after the other with nothing left."""
    found = []
    while text:
        one = re.match(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\["\\n])*)"(,(?=.)|$)', text)
        assert one, f"no label: {text!r}"
        found.append((one[1], unescaped(one[2])))
        text = text[one.end():]
    assert len({name for name, _ in found}) == len(found)
    return found


def unescaped(text: str) -> str:
    return re.sub(r"\\(.)", lambda match: {"n": "\n"}.get(match[1], match[1]), text)


def value(values: Values, name: str, **labels: str) -> float:
    return values[f"tensor_runtime_{name}", frozenset(labels.items())]


def scrape(target: str) -> Values:
    return parse(metrics_text(families_of(fetch_metrics(target, NOBODY, 10))))[1]


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 15
    while not holds():
        assert time.monotonic() < deadline, "not seen in time"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[runtime.Server]:
    with runtime.Server(services=("graph", "task", "command"), data_dir=tmp_path_factory.mktemp("data")) as server:
        yield server


# The text


@pytest.mark.parametrize("text", ['a"b', "a\\b", "a\nb", 'all \\" of\n\\n it"', "", "ü→😀", '",x="', "a}b 1"])
def test_any_text_is_a_label_and_a_help(text: str) -> None:
    family = Family("x", text or "none", Kind.GAUGE, "", (Sample(1, (("one", text), ("two", "2"))),))
    families, values = parse(metrics_text([family]))
    assert families == {"x": {"TYPE": "gauge", "HELP": text or "none"}}
    assert values == {("x", frozenset({("one", text), ("two", "2")})): 1}


@pytest.mark.parametrize("number", [
    0, 1, -3, 0.1, 1e-300, 1.5e300, 2**53, 2**53 - 1, 2.0**70, 1 / 3, math.inf, -math.inf, math.nan])
def test_numbers_are_read_as_they_were(number: float) -> None:
    _, values = parse(metrics_text([gauge("x", "A number.", number)]))
    found = value(values, "x")
    assert found == number or math.isnan(number) and math.isnan(found)


def test_counters_and_units_are_named_as_the_formats_want() -> None:
    families = [counter("sent", "What was sent.", {"a": 1, "b": 2}, "road", "bytes"), gauge("open", "Open.", 3)]
    assert metrics_text(families) == (
        "# TYPE tensor_runtime_sent_bytes counter\n"
        "# UNIT tensor_runtime_sent_bytes bytes\n"
        "# HELP tensor_runtime_sent_bytes What was sent.\n"
        'tensor_runtime_sent_bytes_total{road="a"} 1\n'
        'tensor_runtime_sent_bytes_total{road="b"} 2\n'
        "# TYPE tensor_runtime_open gauge\n"
        "# HELP tensor_runtime_open Open.\n"
        "tensor_runtime_open 3\n"
        "# EOF\n")
    # Here the type is that of the samples' own name, and quotes are none to escape in a help.
    assert metrics_text([counter("n", 'A "n".', 1)], classic=True) == (
        "# TYPE tensor_runtime_n_total counter\n"
        '# HELP tensor_runtime_n_total A "n".\n'
        "tensor_runtime_n_total 1\n")


@pytest.mark.parametrize("families, text", [
    ([Family("1x", "", Kind.GAUGE)], "name: '1x' cannot be"),
    ([Family("x\n", "", Kind.GAUGE)], "cannot be a metric's name"),
    ([Family("é", "", Kind.GAUGE)], "cannot be a metric's name"),
    ([Family("x", "", Kind.GAUGE), Family("x", "", Kind.COUNTER)], "name: 'x' comes twice"),
    ([Family("x", "", Kind.GAUGE, "bytes")], "must end with its unit, _bytes"),
    ([Family("x", "", Kind.GAUGE, "", (Sample(1, (("a-b", ""),)),))], "label: 'a-b' cannot be"),
    ([Family("x", "", Kind.GAUGE, "", (Sample(1, (("__a", ""),)),))], "label: '__a' cannot be"),
    ([Family("x", "", Kind.GAUGE, "", (Sample(1, (("a", "1"), ("a", "2"))),))], "a sample of x has one name twice"),
])
def test_names_that_no_collector_reads_are_refused(families: list[Family], text: str) -> None:
    with pytest.raises(InvalidArgument, match=re.escape(text)):
        metrics_text(families)


def test_more_labels_come_first_and_do_not_replace_any() -> None:
    families = labelled([counter("n", "N.", {"x": 1}, "road")], [("server", "a")])
    assert families[0].samples[0].labels == (("server", "a"), ("road", "x"))
    with pytest.raises(InvalidArgument, match="one name twice: road, server, road"):
        labelled(families, [("road", "a")])
    with pytest.raises(InvalidArgument, match="label: '1' cannot be"):
        labelled([], [("1", "a")])


# The call


def test_values_follow_steps(server: runtime.Server) -> None:
    graph = runtime.Graph()
    x = graph.placeholder("float32", [None], name="x")
    y = graph.square(x, name="y")
    a = graph.placeholder("float32", [None, None], name="a")
    product = graph.matmul(a, a)
    before = scrape(server.target)
    with runtime.Session(server.target, graph=graph) as session:
        for _ in range(3):
            session.run(y, {x: np.ones(2, np.float32)})
        with pytest.raises(InvalidArgument):
            session.run(product, {a: np.ones((2, 3), np.float32)})
        after = scrape(server.target)
    assert value(after, "sessions") == value(before, "sessions") + 1
    assert value(after, "steps_ended_total") == value(before, "steps_ended_total") + 4
    for code in ("INVALID_ARGUMENT", "INTERNAL"):
        failed = value(after, "steps_failed_total", code=code) - value(before, "steps_failed_total", code=code)
        assert failed == (code == "INVALID_ARGUMENT")
    assert value(after, "steps_running") == 0
    assert value(after, "calls_total") > value(before, "calls_total")
    assert value(after, "calls_open") >= 1 and value(after, "connections_open") >= 1
    until(lambda: value(scrape(server.target), "sessions") == value(before, "sessions"))


def test_steps_under_way_are_told(server: runtime.Server) -> None:
    graph = runtime.Graph()
    x = graph.placeholder("float32", [1], name="x")
    y = graph.square(x, name="y")
    before = value(scrape(server.target), "steps_running")
    with runtime.Session(server.target, graph=graph) as session:
        session.partial_run(session.partial_run_setup([y], [x]), [], {})
        assert value(scrape(server.target), "steps_running") == before + 1
    until(lambda: value(scrape(server.target), "steps_running") == before)


def test_values_follow_transfers(server: runtime.Server) -> None:
    from runtime.transport.roads import Road, count

    before = scrape(server.target)
    count("sent", Road.STREAM, 1000, 0.25, 3)
    after = scrape(server.target)
    road = {"direction": "sent", "road": "stream"}
    for name, change in (("transfers_total", 1), ("transfer_bytes_total", 1000), ("transfer_seconds_total", 0.25),
                         ("transfer_copies_total", 3)):
        assert value(after, name, **road) - value(before, name, **road) == pytest.approx(change)
    assert {dict(labels)["road"] for name, labels in after if name == "tensor_runtime_transfers_total"} == {
        "reference", "shared memory", "stream", "message"}


def test_large_feeds_are_transfers(server: runtime.Server) -> None:
    graph = runtime.Graph()
    x = graph.placeholder("float32", [None], name="x")
    y = graph.square(x, name="y")

    def received() -> float:
        return sum(number for (name, labels), number in scrape(server.target).items()
                   if name == "tensor_runtime_transfer_bytes_total" and ("direction", "received") in labels)

    before = received()
    with runtime.Session(server.target, graph=graph) as session:
        session.run(y, {x: np.ones(1 << 20, np.float32)})
        assert received() - before >= 4 << 20


def test_values_follow_tasks(server: runtime.Server) -> None:
    before = scrape(server.target)
    with runtime.TaskClient(server.target) as client, client.session() as session:
        session.submit(b"one")
        until(lambda: value(scrape(server.target), "tasks", status="SUBMITTED")
              == value(before, "tasks", status="SUBMITTED") + 1)
    assert value(before, "task_workers", state="ready") == 0


def test_values_follow_commands(server: runtime.Server) -> None:
    before = scrape(server.target)
    with runtime.CommandClient(server.target) as client:
        number = client.submit("true")
        after = value(scrape(server.target), "commands_submitted_total")
        assert after == value(before, "commands_submitted_total") + 1
        client.cancel(number)
        until(lambda: value(scrape(server.target), "command_changes_total", status="CANCELLED")
              == value(before, "command_changes_total", status="CANCELLED") + 1)
    assert value(scrape(server.target), "commands_held") == 0


def test_the_process_is_told(server: runtime.Server) -> None:
    first = scrape(server.target)
    assert value(first, "process_resident_memory_bytes") > 10 << 20
    assert value(first, "process_open_descriptors") > 3
    assert value(first, "process_start_time_seconds") == pytest.approx(time.time(), abs=7 * 86400)
    assert value(first, "process_start_time_seconds") < time.time()
    assert value(first, "build_info", version=runtime.__version__) == 1
    sum(range(2_000_000))
    assert value(scrape(server.target), "process_cpu_seconds_total") > value(first, "process_cpu_seconds_total")


@pytest.mark.parametrize("services", [("task",), ("fleet", "stream")])
def test_every_server_has_metrics_and_opens_nothing_for_them(services: tuple[str, ...], tmp_path: Path) -> None:
    with runtime.Server(services=services, data_dir=tmp_path / "data") as server:
        names = {name for name, _ in scrape(server.target)}
    assert "tensor_runtime_connections_open" in names
    assert ("tensor_runtime_tasks" in names) == ("task" in services)
    assert "tensor_runtime_sessions" not in names


def test_grpc_transport_has_metrics(tmp_path: Path) -> None:
    with runtime.Server(services=("graph",), transport="grpc", data_dir=tmp_path) as server:
        values = scrape(server.target)
    assert value(values, "sessions") == 0
    assert not [name for name, _ in values if name == "tensor_runtime_connections_open"]


async def _one() -> list[Family]:
    return [gauge("one", "One.", 1)]


async def _closed() -> list[Family]:
    raise Unavailable("the store is closed")


async def _broken() -> list[Family]:
    raise ZeroDivisionError("secret")


async def _asked(parts: Mapping[str, Part], request: bytes = b"") -> bytes:
    return await MetricsService(lambda: parts).get_metrics(request, None)


def test_a_plane_that_fails_is_told_and_hides_no_other() -> None:
    answer = asyncio.run(_asked({"task": _closed, "edge": _one, "graph": _broken}))
    response = wire.runtime_v1.MetricsResponse.FromString(answer)
    assert [family.name for family in families_of(response)] == ["tensor_runtime_one"]
    assert {one.plane: one.error for one in response.missing} == {
        "task": "the store is closed", "graph": "ZeroDivisionError: see the server's log"}


def test_a_request_that_is_none_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="no runtime.v1.MetricsRequest message"):
        asyncio.run(_asked({}, b"\xff"))


# The command


def command(*words: str) -> tuple[int, str, str]:
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        code = main(["metrics", *words])
    return code, out.getvalue(), err.getvalue()


def test_command_prints_every_format(server: runtime.Server) -> None:
    code, text, err = command(server.target, "--label", 'server=a"b', "--label", "site=")
    assert (code, err) == (0, "")
    families, values = parse(text)
    assert families["tensor_runtime_steps_ended"]["TYPE"] == "counter"
    assert value(values, "sessions", server='a"b', site="") >= 0
    code, text, _ = command(server.target, "-o", "prometheus")
    assert code == 0 and "# TYPE tensor_runtime_steps_ended_total counter\n" in text and "# EOF" not in text
    code, text, _ = command(server.target, "-o", "json", "--label", "server=a")
    told = {family["name"]: family for family in json.loads(text)["families"]}
    assert code == 0 and json.loads(text)["missing"] == {}
    assert told["tensor_runtime_shared_memory_bytes"]["unit"] == "bytes"
    assert [sample["labels"] for sample in told["tensor_runtime_shared_memory_bytes"]["samples"]] == [
        {"server": "a", "state": "used"}, {"server": "a", "state": "idle"}]


@pytest.mark.parametrize("words, text", [
    (["--label", "server"], "--label must be NAME=VALUE, got 'server'"),
    (["--label", "a b=1"], "label: 'a b' cannot be a label's name"),
    (["--label", "road=1"], "one name twice: road, "),
    (["--timeout", "0"], "--timeout must be more than 0 seconds, got 0"),
])
def test_command_refuses_what_it_cannot_use(server: runtime.Server, words: list[str], text: str) -> None:
    code, out, err = command(server.target, *words)
    assert code != 0 and text in err and out == ""


def test_command_says_who_is_not_there(tmp_path: Path) -> None:
    code, out, err = command(f"unix:{tmp_path / 'nobody'}")
    assert code == 1 and "cannot be reached" in err and out == ""
