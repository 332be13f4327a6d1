"""What the README shows must work as shown."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import grpc
import pytest

from runtime import wire
from runtime.cli import COMMANDS
from tests.peers import ROOT

README = (ROOT / "README.md").read_text()
PAGES = ["README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"]
ALL_PAGES = [*PAGES, "docs/architecture.md", "docs/server.md", "docs/tensorflow.md"]


def blocks(language: str) -> list[str]:
    """Return the fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)


def test_first_example_prints_what_the_readme_says(tmp_path: Path) -> None:
    example, output = blocks("python")[0], blocks("text")[0]
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{example}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == output
    assert list(tmp_path.iterdir()) == []


def is_answered(channel: grpc.Channel, method: wire.MethodType) -> bool:
    """Call a method with an empty message; tell whether the server has it."""
    form = "_".join("stream" if streams else "unary" for streams in (method.client_streaming, method.server_streaming))
    call = getattr(channel, form)(method.path)
    try:
        answer = call(iter([b""]) if method.client_streaming else b"", timeout=20)
        if method.server_streaming:
            list(answer)
    except grpc.RpcError as error:
        return error.code() is not grpc.StatusCode.UNIMPLEMENTED
    return True


def test_table_of_protocols_is_what_the_server_answers(server: str) -> None:
    rows = re.findall(r"^\| (.*`.*) \| (.*) \|$", README, re.MULTILINE)
    with grpc.insecure_channel(server.removeprefix("grpc://")) as channel:
        for name, methods in wire.SERVICES.items():
            if wire.PLANES[name] == "edge":
                continue
            package = name.rpartition(".")[0]
            (state,) = (text for row, text in rows if f"`{name}`" in row or f"`{package}`" in row)
            answered = {method.name for method in methods.values() if is_answered(channel, method)}
            # A row names the methods that are not answered, unless none is.
            refused = set(re.findall(r"`(\w+)`", state)) or set(methods) if "UNIMPLEMENTED" in state else set()
            expected = set(methods) - refused
            assert answered == expected, f"{name}: {state}"


def test_commands_that_are_shown_exist() -> None:
    shown = set(re.findall(r"`tensor-runtime ([a-z]+)", README))
    assert shown >= {"serve", "ops", "config"}
    assert shown - COMMANDS.keys() == set()


@pytest.mark.parametrize("page", ALL_PAGES)
def test_links_to_files_lead_somewhere(page: str) -> None:
    text = (ROOT / page).read_text()
    targets = [target for target in re.findall(r"\]\(([^)#]+)", text) if "://" not in target]
    folder = (ROOT / page).parent
    assert [target for target in targets if not (folder / target).exists()] == []


@pytest.mark.parametrize("page", ALL_PAGES)
def test_tests_that_are_named_exist(page: str) -> None:
    named = re.findall(r"`(tests/[\w/.]+)`", (ROOT / page).read_text())
    assert [path for path in named if not (ROOT / path).exists()] == []


@pytest.mark.parametrize("page", PAGES)
def test_make_targets_that_are_named_exist(page: str) -> None:
    makefile = (ROOT / "Makefile").read_text()
    named = set(re.findall(r"make ([a-z]+)\b", (ROOT / page).read_text()))
    known = set(re.findall(r"^([a-z]+):", makefile, re.MULTILINE))
    # Prose after the word, not a target.
    assert named - known - {"target", "it"} == set()
