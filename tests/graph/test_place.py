"""Placement: requests, groups, soft placement, and the texts when nothing fits."""

from __future__ import annotations

from typing import Any

import pytest

from runtime.dtypes import DataType
from runtime.errors import InvalidArgument
from runtime.graph.graph import Graph
from runtime.graph.place import Placer
from tests.graph.graphs import FLOAT, const, function_def, graph_def, identity, node, placeholder

RESOURCE = DataType.RESOURCE
CPU0, CPU1 = (f"/job:w/replica:0/task:0/device:CPU:{index}" for index in range(2))
OTHER = "/job:w/replica:0/task:1/device:CPU:0"
FIRST_BY_NAME = "/job:a/replica:0/task:0/device:CPU:0"
GPU0 = "/job:w/replica:0/task:0/device:GPU:0"


def always(op: str) -> bool:
    return True


def not_strings(op: str) -> bool:
    return op != "StringJoin"


def placer(*devices: str, soft: bool = False) -> Placer:
    return Placer(
        [(name, not_strings if "GPU" in name else always) for name in devices], "/job:w/replica:0/task:0", soft=soft
    )


def placed(chooser: Placer, *nodes: Any, functions: tuple[Any, ...] = ()) -> dict[str, str]:
    graph = Graph.from_proto(graph_def(*nodes, functions=functions), accept=lambda new: chooser.place(new, {}))
    return {name: item.device for name, item in graph.nodes.items()}


def refused(chooser: Placer, *nodes: Any) -> str:
    with pytest.raises(InvalidArgument) as caught:
        placed(chooser, *nodes)
    return str(caught.value)


def test_nodes_without_a_request_land_on_the_own_task() -> None:
    assert placed(placer(FIRST_BY_NAME, OTHER, CPU0), const("a", 1.0)) == {"a": CPU0}
    assert placed(placer(CPU0), const("a", 1.0)) == {"a": CPU0}


def test_an_accelerator_comes_first_where_it_has_the_kernel() -> None:
    found = placed(placer(CPU0, GPU0), const("a", 1.0), const("s", b"x"), node("j", "StringJoin", "s", "s", N=2))
    assert found["a"] == GPU0
    assert found["j"] == CPU0


def test_requests_may_be_partial() -> None:
    found = placed(
        placer(CPU0, CPU1, OTHER),
        const("a", 1.0, device="/task:1"),
        const("b", 1.0, device="/cpu:1"),
        const("c", 1.0, device="/job:w/device:CPU:*"),
    )
    assert found == {"a": OTHER, "b": CPU1, "c": CPU0}


@pytest.mark.parametrize("devices", [(CPU0,), (CPU0, CPU1)])
def test_a_request_that_nothing_fits_lists_the_devices(devices: tuple[str, ...]) -> None:
    listed = ", ".join(sorted(devices))
    for soft in (False, True):
        assert refused(placer(*reversed(devices), soft=soft), const("a", 1.0, device="/job:nope/task:3")) == (
            "Cannot assign a device for operation a: {{node a}} was explicitly assigned to /job:nope/task:3 but "
            f"available devices are [ {listed} ]. Make sure the device specification refers to a valid "
            "device.\n\t [[a]]"
        )
    assert refused(placer(*devices), const("a", 1.0, device="/gpu:0")) == (
        "Cannot assign a device for operation a: {{node a}} was explicitly assigned to /gpu:0 but available devices "
        f"are [ {listed} ]. Make sure the device specification refers to a valid device. The requested device appears "
        "to be a GPU, but CUDA is not enabled.\n\t [[a]]"
    )


@pytest.mark.parametrize("devices", [(CPU0,), (CPU0, OTHER)])
def test_a_malformed_request_is_named(devices: tuple[str, ...]) -> None:
    message = refused(placer(*devices), const("a", 1.0, device="hello"))
    assert message.startswith("Malformed device specification 'hello' in node: {{node a}}")


def test_a_device_without_the_kernel_is_refused() -> None:
    message = refused(placer(CPU0, GPU0), const("s", b"x"), node("j", "StringJoin", "s", "s", N=2, device="/gpu:0"))
    assert message == (
        "Cannot assign a device for operation j: Could not satisfy explicit device specification '/gpu:0' "
        "because no supported kernel for GPU devices is available.\n\t [[j]]"
    )


@pytest.mark.parametrize("devices", [(CPU0,), (CPU0, OTHER)])
def test_soft_placement_moves_within_the_task_only(devices: tuple[str, ...]) -> None:
    assert placed(placer(*devices, soft=True), const("a", 1.0, device="/gpu:0")) == {"a": CPU0}
    assert placed(placer(CPU0, OTHER, soft=True), const("a", 1.0, device="/task:1/gpu:5")) == {"a": OTHER}
    assert "was explicitly assigned" in refused(placer(*devices, soft=True), const("a", 1.0, device="/task:7/cpu:0"))


def variable(name: str, device: str) -> Any:
    return node(name, "VariableV2", dtype=FLOAT, shape=(), device=device)


def test_reference_edges_keep_assign_with_its_variable() -> None:
    found = placed(
        placer(CPU0, CPU1),
        variable("v", "/cpu:1"),
        const("one", 1.0),
        node("assign", "Assign", "v", "one", T=FLOAT, device="/cpu:0"),
        identity("read", "v", device="/cpu:0"),
    )
    assert found["assign"] == CPU1
    assert found["read"] == CPU0


def test_resource_edges_keep_readers_with_the_variable_but_not_calls() -> None:
    function = function_def("f", {"r": RESOURCE}, {"y": (RESOURCE, "r")}, [])
    found = placed(
        placer(CPU0, CPU1),
        node("h", "VarHandleOp", dtype=FLOAT, shape=(), device="/cpu:1"),
        node("read", "ReadVariableOp", "h", dtype=FLOAT),
        node("call", "PartitionedCall", "h", f="f", Tin=[RESOURCE], Tout=[RESOURCE]),
        functions=(function,),
    )
    assert found == {"h": CPU1, "read": CPU1, "call": CPU0}


def test_class_attrs_colocate_even_by_an_absent_name() -> None:
    beside = {"_class": [b"loc:@v"]}
    found = placed(placer(CPU0, CPU1), variable("v", "/cpu:1"), node("init", "Placeholder", dtype=FLOAT, **beside))
    assert found["init"] == CPU1
    nowhere = {"_class": [b"loc:@gone"]}
    found = placed(
        placer(CPU0, CPU1),
        node("a", "Placeholder", dtype=FLOAT, device="/cpu:1", **nowhere),
        node("b", "Placeholder", dtype=FLOAT, **nowhere),
    )
    assert found == {"a": CPU1, "b": CPU1}


def test_conflicting_colocation_is_an_error_unless_soft() -> None:
    nodes = (variable("v", "/cpu:1"), node("b", "Placeholder", dtype=FLOAT, device="/cpu:0", _class=[b"loc:@v"]))
    message = refused(placer(CPU0, CPU1), *nodes)
    assert message.startswith(
        "Cannot colocate nodes {{colocation_node b}} and {{colocation_node v}}: Cannot merge devices "
        "with incompatible ids: "
    )
    found = placed(placer(CPU0, CPU1, soft=True), *nodes)
    assert found["v"] == found["b"]


def test_a_source_follows_its_only_consumers_device() -> None:
    found = placed(
        placer(CPU0, CPU1), const("a", 1.0), identity("b", "a", device="/cpu:1"), node("shape", "Shape", "b", T=FLOAT)
    )
    assert found == {"a": CPU1, "b": CPU1, "shape": CPU1}


def test_placed_nodes_stay_and_new_ones_join_them() -> None:
    chooser = placer(CPU0, CPU1)
    graph = Graph.from_proto(
        graph_def(variable("v", "/cpu:1"), placeholder("x")), accept=lambda new: chooser.place(new, {})
    )
    graph.extend(
        graph_def(
            const("one", 1.0),
            node("assign", "Assign", "v", "one", T=FLOAT),
            node("near", "Placeholder", dtype=FLOAT, _class=[b"loc:@x"]),
            node("far", "Placeholder", dtype=FLOAT, device="/cpu:1", _class=[b"loc:@near"]),
        ),
        lambda new: Placer([(CPU0, always), (CPU1, always)], "/job:w/replica:0/task:0", soft=True).place(
            new, graph.nodes
        ),
    )
    assert graph.nodes["v"].device == CPU1
    assert graph.nodes["assign"].device == CPU1
    assert graph.nodes["near"].device == CPU0
    assert graph.nodes["far"].device == CPU0


def test_a_group_of_many_is_joined_in_good_time() -> None:
    nodes = [const("n0", 1.0, device="/cpu:1")]
    nodes += [
        node(f"n{index}", "Placeholder", dtype=FLOAT, _class=[f"loc:@n{index - 1}".encode()])
        for index in range(1, 5000)
    ]
    assert set(placed(placer(CPU0, CPU1), *nodes).values()) == {CPU1}
