"""``tensor-runtime session|task|result``: what people see of tasks."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

import runtime
from runtime.cli import main
from tests.client.tasks.conftest import running_worker

TIMEOUT_S = 60.0


class Shell:
    """Runs commands of one server and returns their status and output."""

    def __init__(self, target: str, capture: pytest.CaptureFixture[str]) -> None:
        self._target = target
        self._capture = capture

    def __call__(self, *words: str) -> tuple[int, str]:
        self._capture.readouterr()
        status = main([*words, "--server", self._target])
        found = self._capture.readouterr()
        return status, found.out or found.err

    def json(self, *words: str) -> object:
        status, text = self(*words, "-o", "json")
        assert status == 0, text
        return json.loads(text)


def test_lists_and_details(worked: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    shell = Shell(worked, capsys)
    with runtime.TaskClient(worked) as client:
        session = client.session("shown", priority=2, max_retries=1, options={"kind": "demo"})
        good = session.submit(b"echo fine", id="good")
        bad = session.submit(b"raise broken", id="bad", keys=["made"])
        good.wait(TIMEOUT_S)
        bad.wait(TIMEOUT_S)

        (listed,) = [one for one in shell.json("session", "list") if one["session_id"] == "shown"]  # type: ignore[attr-defined]
        assert listed["num_tasks"] == {"COMPLETED": 1, "ERROR": 2}
        assert listed["options"] == {
            "priority": 2, "max_retries": 1, "max_duration_s": 3600.0, "options": {"kind": "demo"}
        }
        status, text = shell("session", "show", "shown")
        assert (status, text.splitlines()[0].split()) == (0, ["SESSION", "STATUS", "CREATED", "PRIORITY", "TASKS"])
        assert "COMPLETED=1 ERROR=2" in text

        tasks = shell.json("task", "list", "--session", "shown")
        assert [(task["task_id"], task["status"]) for task in tasks] == [  # type: ignore[attr-defined]
            ("good", "COMPLETED"), ("bad", "ERROR"), ("bad###1", "ERROR")
        ]
        failed = shell.json("task", "list", "--session", "shown", "--status", "error", "--limit", "1")
        assert [task["task_id"] for task in failed] == ["bad"]  # type: ignore[attr-defined]
        assert shell("task", "list", "--status", "wrong")[0] != 0

        detail = shell.json("task", "show", "bad")
        assert isinstance(detail, dict)
        assert [attempt["task_id"] for attempt in detail["attempt"]] == ["bad", "bad###1"]
        assert detail["result"][0] | {"bytes": 0} == {
            "key": "made", "status": "ABORTED", "owner_id": "bad###1", "owner_status": "ERROR", "bytes": 0
        }
        assert detail["options"]["options"] == {"kind": "demo"}
        status, text = shell("task", "show", "bad")
        assert status == 0
        assert "RuntimeError: broken" in text
        assert "option kind: demo" in text

        assert shell("task", "wait", "good") == (0, "good COMPLETED\n")
        assert shell("task", "wait", "good", "bad") == (1, "good COMPLETED\nbad ERROR\n")
        session.submit(b"nothing", id="short")
        assert shell("task", "wait", "short") == (1, "short COMPLETED: the task ended without its result 'short'\n")
        assert shell("session", "wait", "shown")[0] == 1

        results = shell.json("result", "list", "shown", "--status", "completed")
        assert [(one["key"], one["bytes"], one["owner_id"]) for one in results] == [("good", 4, "good")]  # type: ignore[attr-defined]
        assert shell("result", "get", "shown", "good", "--to", str(tmp_path / "file")) == (0, "")
        assert (tmp_path / "file").read_bytes() == b"fine"
        assert shell("result", "wait", "shown", "good") == (0, "good COMPLETED\n")
        status, text = shell("result", "get", "shown", "made", "--to", str(tmp_path / "other"))
        assert status == 1
        assert "broken" in text
        assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]

        assert shell("session", "cancel", "shown") == (0, "canceled shown\n")
        assert "shown" in shell("session", "list", "--status", "canceled")[1]
        assert shell("session", "delete", "shown") == (0, "deleted shown\n")
        status, text = shell("session", "show", "shown")
        assert status == 1
        assert "shown" in text
        other = client.session("unfinished")
        other.submit(b"echo never", dependencies=["nothing"])
        status, text = shell("session", "delete", "unfinished")
        assert status == 1
        assert "1 tasks that have not ended: cancel it before" in text
        other.cancel()


def test_results_are_shown_and_fetched(worked: str, capsysbinary: pytest.CaptureFixture[bytes], tmp_path: Path) -> None:
    def shell(*words: str) -> tuple[int, bytes]:
        status = main([*words, "--server", worked])
        found = capsysbinary.readouterr()
        return status, found.out or found.err

    with runtime.TaskClient(worked) as client, client.session("fetched", max_retries=1) as session:
        session.submit(b"echo fine", id="one").wait(TIMEOUT_S)
        session.submit(b"both", id="two", keys=["left", "right"]).wait(TIMEOUT_S)
        session.submit(b"raise broken", id="bad").wait(TIMEOUT_S)
        status, text = shell("result", "show", "fetched", "right", "-o", "json")
        assert (status, json.loads(text)["owner_id"], json.loads(text)["bytes"]) == (0, "two", 5)
        assert shell("result", "show", "fetched", "left")[1].splitlines()[1].split() == [
            b"left", b"COMPLETED", b"4", b"two", b"COMPLETED"
        ]
        status, text = shell("result", "show", "fetched", "middle")
        assert (status, b"result 'middle' is not known in session 'fetched'" in text) == (1, True)
        for words in (("result", "get", "fetched", "one"), ("task", "get", "one"), ("task", "get", "one", "one")):
            assert shell(*words) == shell(*words, "--to", "-") == (0, b"fine")
        assert shell("task", "get", "two", "right", "--to", str(tmp_path / "file")) == (0, b"")
        assert (tmp_path / "file").read_bytes() == b"right"
        status, text = shell("task", "get", "two")
        assert (status, b"task 'two' has several results; name one: left, right" in text) == (2, True)
        status, text = shell("task", "get", "two", "middle")
        assert (status, b"task 'two' has no result 'middle'; it has left, right" in text) == (2, True)
        place = tmp_path / "nowhere" / "file"
        status, text = shell("task", "get", "one", "--to", str(place))
        assert (status, f"--to {place}: {place}.part cannot be written: No such file".encode() in text) == (1, True)
        status, text = shell("task", "get", "bad")
        assert (status, b"RuntimeError: broken" in text) == (1, True)
        # A list has one line for each; that of a traceback which says most is its last one.
        (line,) = [line for line in shell("task", "list", "--session", "fetched")[1].splitlines() if b"bad " in line]
        assert line.endswith(b"RuntimeError: broken")


def test_what_does_not_exist_is_named(worked: str, capsys: pytest.CaptureFixture[str]) -> None:
    shell = Shell(worked, capsys)
    for words in (
        ("session", "show", "nobody"),
        ("session", "delete", "nobody"),
        ("task", "show", "nobody"),
        ("task", "why", "nobody"),
        ("task", "cancel", "nobody"),
        ("task", "wait", "nobody"),
        ("task", "list", "--session", "nobody"),
        ("result", "list", "nobody"),
        ("task", "get", "nobody"),
        ("result", "show", "nobody", "key"),
        ("result", "get", "nobody", "key"),
    ):
        status, text = shell(*words)
        assert status == 1, words
        assert "nobody" in text


def test_why_a_task_does_not_run(
    unworked: runtime.Server, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    shell = Shell(unworked.target, capsys)

    def why(task: str) -> str:
        status, text = shell("task", "why", task)
        assert status == 0, text
        return text

    with runtime.TaskClient(unworked.target) as client, client.session() as session:
        session.submit(b"wait %s" % bytes(tmp_path / "go"), id="first")
        session.submit(b"echo", id="second")
        session.submit(b"echo", id="urgent", priority=5)
        session.submit(b"join", id="joined", dependencies=["first", "nothing"])
        assert "no worker can be used" in why("first")
        text = why("second")
        assert "1 task of higher priority than 1 comes first" in text
        assert "1 task of its session stands before it" in text
        text = why("joined")
        assert text.startswith("joined is SUBMITTED")
        assert "waits for the result 'first' of task 'first', which is SUBMITTED" in text
        assert "waits for the result 'nothing', which no task makes so far" in text
        with running_worker(unworked.target):
            client.attach(session.id).handle("urgent").wait(TIMEOUT_S)
            deadline = time.monotonic() + TIMEOUT_S
            while "25% is done: waiting" not in (text := why("first")) or "it has been running for" not in text:
                assert time.monotonic() < deadline, text
                time.sleep(0.05)
            assert " s at worker tests.client.tasks.worker_functions:work (unix:" in text
            assert "all workers are busy, 1 of 1 places taken" in why("second")
            (tmp_path / "go").touch()
            client.attach(session.id).handle("second").wait(TIMEOUT_S)
        assert "it has ended: COMPLETED" in why("second")
        assert json.loads(shell("task", "why", "second", "-o", "json")[1])["status"] == "COMPLETED"
        assert shell("task", "cancel", "joined") == (0, "canceled joined\n")
        assert "it has ended: CANCELED" in why("joined")
        session.cancel()
        status, text = shell("session", "wait", session.id, "--timeout", "30")
        assert (status, "CANCELED=1" in text) == (1, True)


def test_lists_come_in_pages(unworked: runtime.Server, capsys: pytest.CaptureFixture[str]) -> None:
    shell = Shell(unworked.target, capsys)
    with runtime.TaskClient(unworked.target) as client:
        session = client.session("long")
        session.map([b"x"] * 2300)
    assert len(shell.json("task", "list", "--session", "long")) == 2300  # type: ignore[arg-type]
    assert len(shell.json("result", "list", "long", "--limit", "1500")) == 1500  # type: ignore[arg-type]
