"""Checklist 24 to 35: signatures, feeds, placement, as a client of the service sees them."""

from __future__ import annotations

import numpy as np
import pytest

from runtime.errors import Error, InvalidArgument
from tests.graph.graphs import FLOAT, INT32, const, identity, node, placeholder
from tests.graph.test_prune import CASES
from tests.master.harness import Caller

FROM = "From /job:local/replica:0/task:0:\n"
CPU = "/job:local/replica:0/task:0/device:CPU:0"


@pytest.mark.parametrize(("feeds", "fetches", "targets", "kind", "text"), CASES)
def test_24_each_text_comes_verbatim_with_its_code(
    master: Caller, feeds: list[str], fetches: list[str], targets: list[str], kind: type[Error], text: str
) -> None:
    handle = master.session(
        const("ca", 1.0),
        placeholder("x"),
        identity("y", "x"),
        node("nop", "NoOp"),
        node("v", "VariableV2", dtype=FLOAT, shape=()),
    )
    for _ in range(2):
        response = master.step(
            handle, fetches, targets, [(name, 1.0) for name in feeds], store_errors_in_response_body=True
        )
        assert (response.status_code, response.status_error_message) == (kind.code, text)


def test_26_a_constant_or_an_intermediate_may_be_fed(master: Caller) -> None:
    handle = master.session(const("c", 1.0), identity("y", "c"), node("z", "Neg", "y", T=FLOAT))
    assert master.run(handle, ["z:0"]) == [-1.0]
    assert master.run(handle, ["z:0"], feed={"c:0": 5.0}) == [-5.0]
    assert master.run(handle, ["z:0"], feed={"y:0": 6.0}) == [-6.0]
    assert master.run(handle, ["z"], feed={"y": np.zeros(3, np.float32)})[0].tolist() == [0, 0, 0]


def test_26_both_spellings_of_a_feed_work_one_after_the_other(master: Caller) -> None:
    handle = master.session(placeholder("x"), identity("y", "x"))
    for name in ("x:0", "x", "x:0"):
        assert master.run(handle, ["y:0"], feed={name: 2.0}) == [2.0]
    assert master.run(handle, ["x:0"], feed={"x": 3.0}) == [3.0]


def test_27_control_successors_of_a_fed_placeholder_run(master: Caller) -> None:
    handle = master.session(placeholder("x"), const("c", 4.0, "^x"), node("after", "NoOp", "^x"))
    assert master.run(handle, ["c:0"], ["after"], feed={"x:0": 1.0}) == [4.0]
    with pytest.raises(InvalidArgument, match="You must feed a value for placeholder tensor 'x'"):
        master.run(handle, ["c:0"])


def test_28_a_failing_node_that_is_not_needed_does_no_harm(master: Caller) -> None:
    handle = master.session(
        placeholder("x"),
        const("c", 1.0),
        node("bad", "MaxPool", "x", T=FLOAT, padding=b"NOPE", ksize=[1], strides=[1]),
        identity("y", "c"),
    )
    assert master.run(handle, ["y:0"], feed={"x:0": 1.0}) == [1.0]
    with pytest.raises(InvalidArgument, match="ksize"):
        master.run(handle, ["bad:0"], feed={"x:0": 1.0})


def test_30_an_unfed_placeholder_gives_dtype_and_shape(master: Caller) -> None:
    handle = master.session(
        node("x", "Placeholder", dtype=INT32, shape=(None, 3)), identity("y", "x", dtype=INT32), placeholder("u")
    )
    with pytest.raises(InvalidArgument) as caught:
        master.run(handle, ["y:0"])
    assert str(caught.value) == (
        f"{FROM}You must feed a value for placeholder tensor 'x' with dtype int32 and shape [?,3]"
        "\n\t [[{{node x}}]]"
    )


@pytest.mark.parametrize("soft", [False, True])
def test_31_a_device_that_is_not_there_fails_the_session_not_the_step(master: Caller, soft: bool) -> None:
    text = (
        "Cannot assign a device for operation a: {{node a}} was explicitly assigned to /job:nope/task:3 but available "
        f"devices are [ {CPU} ]. Make sure the device specification refers to a valid device.\n\t [[a]]"
    )
    with pytest.raises(InvalidArgument) as caught:
        master.session(const("a", 1.0, device="/job:nope/task:3"), allow_soft_placement=soft)
    assert str(caught.value) == text
    handle = master.session(const("b", 1.0))
    with pytest.raises(InvalidArgument) as caught:
        master.extend(handle, 0, const("a", 1.0, device="/job:nope/task:3"))
    assert str(caught.value) == text


def test_32_soft_placement_moves_a_gpu_request_to_the_cpu(master: Caller) -> None:
    with pytest.raises(InvalidArgument, match="The requested device appears to be a GPU, but CUDA is not enabled."):
        master.session(const("a", 1.0, device="/gpu:0"))
    handle = master.session(const("a", 1.0, device="/gpu:0"), allow_soft_placement=True)
    assert master.run(handle, ["a:0"]) == [1.0]
    assert master.service.master.session(handle).graph.nodes["a"].device == CPU


def test_34_nodes_land_on_the_own_task(master: Caller) -> None:
    handle = master.session(const("a", 1.0), const("b", 1.0, device="/device:CPU:*"))
    assert {item.device for item in master.service.master.session(handle).graph.nodes.values()} == {CPU}
