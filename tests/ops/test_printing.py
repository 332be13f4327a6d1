"""The ops that print."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from runtime.errors import InvalidArgument, PermissionDenied
from runtime.step.files import FileAccess
from tests.ops.case import Run, op_case
from tests.ops.kernel_runner import KernelRunner


def run_op(op: str, *inputs: object, files: FileAccess | None = None, repeat: int = 1,
           **attrs: object) -> list[np.ndarray]:
    case = op_case(op, *inputs, **attrs)
    runner = KernelRunner(case)
    if files is not None:
        runner.session.files = files
    run: Run = case.runs[0]
    for _ in range(repeat):
        fetched = runner.run(run)
    return fetched


def test_print_v2_writes_a_line_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    run_op("PrintV2", "loss: 0.5 é")
    run_op("PrintV2", "no newline", end="")
    out, err = capsys.readouterr()
    assert (out, err) == ("", "loss: 0.5 é\nno newline")


def test_print_v2_writes_to_standard_output_when_asked(capsys: pytest.CaptureFixture[str]) -> None:
    run_op("PrintV2", "x", output_stream="stdout")
    assert capsys.readouterr() == ("x\n", "")


def test_print_v2_logs(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        run_op("PrintV2", "careful", output_stream="log(warning)")
    assert [(record.levelno, record.getMessage()) for record in caplog.records] == [(logging.WARNING, "careful")]


def test_print_v2_appends_to_a_file_that_graphs_may_touch(tmp_path: Path) -> None:
    allowed = FileAccess([tmp_path])
    target = tmp_path / "log.txt"
    run_op("PrintV2", "one", output_stream=f"file://{target}", files=allowed)
    run_op("PrintV2", "two", output_stream=f"file://{target}", files=allowed)
    assert target.read_text() == "one\ntwo\n"
    with pytest.raises(PermissionDenied):
        run_op("PrintV2", "x", output_stream="file:///somewhere/else", files=allowed)


def test_print_v2_refuses_what_is_no_stream_and_no_scalar() -> None:
    with pytest.raises(InvalidArgument, match="Unknown output stream: nowhere"):
        run_op("PrintV2", "x", output_stream="nowhere")
    with pytest.raises(InvalidArgument, match=r"scalar.*\[1\]"):
        run_op("PrintV2", np.array([b"x"], object))


def test_print_passes_its_input_on_and_prints_the_data(capsys: pytest.CaptureFixture[str]) -> None:
    x = np.arange(3, dtype=np.float32)
    (passed,) = run_op("Print", x, np.arange(5), np.array([b"a"], object), message="values: ")
    assert passed.tolist() == [0, 1, 2]
    assert capsys.readouterr().err == "values: [0 1 2...][a]\n"


def test_print_stops_after_first_n(capsys: pytest.CaptureFixture[str]) -> None:
    run_op("Print", np.float32(1), np.float32(2), first_n=2, repeat=4)
    assert capsys.readouterr().err == "[2]\n" * 2
