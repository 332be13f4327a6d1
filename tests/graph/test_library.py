"""Functions: the library, and bodies as graphs."""

from __future__ import annotations

import pytest

from runtime import wire
from runtime.dtypes import DataType
from runtime.errors import InvalidArgument, NotFound
from runtime.graph.graph import Graph
from runtime.graph.library import FunctionBody, FunctionLibrary
from tests.graph.graphs import FLOAT, INT32, const, function_def, graph_def, names_of, node


def library(*functions: object) -> FunctionLibrary:
    made = wire.FunctionDefLibrary()
    made.function.extend(functions)
    return FunctionLibrary(made)


def generic(op: str, *inputs: str, name: str = "n") -> object:
    proto = node(name, op, *inputs)
    proto.attr["T"].placeholder = "T"
    return proto


def type_attr(kind: DataType) -> object:
    value = wire.AttrValue()
    value.type = kind
    return value


def edges(body: FunctionBody, name: str) -> list[tuple[str, int]]:
    return [(source.name, slot) for source, slot in body.graph.nodes[name].inputs]


def test_inputs_name_arguments_and_output_arguments() -> None:
    split = node("s", "Split", "axis:output:0", "x", num_split=3, T=FLOAT)
    body = library(
        function_def(
            "f",
            {"x": FLOAT},
            {"y": (FLOAT, "add:z:0"), "w": (FLOAT, "s:output:1")},
            [const("axis", 0), split, node("add", "AddV2", "s:output:2", "s:output:0", T=FLOAT)],
        )
    ).body("f")
    assert names_of(body.inputs) == ["x"]
    assert body.inputs[0].op == "_Arg"
    assert edges(body, "s") == [("axis", 0), ("x", 0)]
    assert edges(body, "add") == [("s", 2), ("s", 0)]
    assert [(item.name, slot) for item, slot in body.outputs] == [("add", 0), ("s", 1)]
    assert (body.input_types, body.output_types) == ((1,), (1, 1))


def test_an_output_argument_without_an_index_means_all_its_tensors() -> None:
    body = library(
        function_def(
            "f",
            {"x": FLOAT},
            {"y": (FLOAT, "p:output:0")},
            [
                const("axis", 0),
                node("s", "Split", "axis:output", "x:0", num_split=2, T=FLOAT),
                node("p", "Pack", "s:output", N=2, T=FLOAT),
            ],
        )
    ).body("f")
    assert edges(body, "p") == [("s", 0), ("s", 1)]


def test_list_arguments_become_one_arg_node_each() -> None:
    made = function_def(
        "f",
        {"xs": "Ts...", "ns": ("N", "T")},
        {"y": (FLOAT, "xs:0"), "zs": ("Ts...", "xs")},
        [generic("AddN", "ns", name="add")],
        attrs={"Ts": "list(type)", "N": "int", "T": "type"},
    )
    made.node_def[0].attr["N"].placeholder = "N"
    attrs = wire.NodeDef()
    attrs.attr["Ts"].list.type.extend([FLOAT, INT32])
    attrs.attr["N"].i = 3
    attrs.attr["T"].type = DataType.DOUBLE
    body = library(made).body("f", attrs.attr)
    assert names_of(body.inputs) == ["xs_0", "xs_1", "ns_0", "ns_1", "ns_2"]
    assert body.input_types == (1, 3, 2, 2, 2)
    assert [item.attr("index") for item in body.inputs] == [0, 1, 2, 3, 4]
    assert [(item.name, slot) for item, slot in body.outputs] == [("xs_0", 0), ("xs_0", 0), ("xs_1", 0)]
    assert edges(body, "add") == [("ns_0", 0), ("ns_1", 0), ("ns_2", 0)]


def test_placeholders_are_filled_once_per_attrs() -> None:
    functions = library(
        function_def("f", {"x": "T"}, {"y": ("T", "n:output:0")}, [generic("Identity", "x")], attrs={"T": "type"})
    )
    as_float = functions.body("f", {"T": type_attr(FLOAT)})
    as_int = functions.body("f", {"T": type_attr(INT32), "unknown": type_attr(FLOAT)})
    assert (as_float.output_types, as_int.output_types) == ((1,), (3,))
    assert functions.body("f", {"T": type_attr(FLOAT)}) is as_float
    assert as_int.graph.nodes["n"].attr("T") is DataType.INT32
    with pytest.raises(NotFound, match="No attr named 'T'"):
        functions.body("f")


def test_placeholders_inside_function_attrs_are_filled() -> None:
    call = node("n", "PartitionedCall", "x", f="g", Tin=[FLOAT], Tout=[FLOAT])
    call.attr["f"].func.attr["T"].placeholder = "T"
    functions = library(
        function_def("g", {"x": "T"}, {"y": ("T", "x")}, [], attrs={"T": "type"}),
        function_def("f", {"x": FLOAT}, {"y": (FLOAT, "n:output:0")}, [call], attrs={"T": "type"}),
    )
    body = functions.body("f", {"T": type_attr(FLOAT)})
    assert body.graph.nodes["n"].attr("f").attr["T"].type == FLOAT


def test_control_inputs_and_outputs_are_kept() -> None:
    body = library(
        function_def("f", {"x": FLOAT}, {}, [node("a", "NoOp", "^x"), node("b", "NoOp", "^a")], controls={"side": "b"})
    ).body("f")
    assert names_of(body.graph.nodes["a"].control_inputs) == ["x"]
    assert names_of(body.graph.nodes["b"].control_inputs) == ["a"]
    assert names_of(body.control_outputs) == ["b"]
    assert not body.is_stateful


def test_a_body_with_a_stateful_node_is_stateful() -> None:
    body = library(
        function_def(
            "f",
            {},
            {"y": (FLOAT, "r:output:0")},
            [const("shape", 3), node("r", "RandomUniform", "shape:output:0", T=INT32, dtype=FLOAT)],
        )
    ).body("f")
    assert body.is_stateful


def test_functions_call_functions_and_themselves() -> None:
    functions = library(
        function_def("f", {"x": FLOAT}, {"y": (FLOAT, "n:y:0")}, [node("n", "g", "x")]),
        function_def("g", {"x": FLOAT}, {"y": (FLOAT, "n:y:0")}, [node("n", "g", "x")]),
    )
    body = functions.body("f")
    assert body.graph.nodes["n"].op == "g"
    assert body.graph.nodes["n"].op_def is None
    assert functions.body("g").graph.nodes["n"].output_types == (1,)


def test_a_call_node_gets_its_types_from_the_signature() -> None:
    function = function_def("f", {"x": "T"}, {"y": ("T", "x")}, [], attrs={"T": "type"})
    graph = Graph.from_proto(graph_def(const("a", 1), node("c", "f", "a", T=INT32), functions=(function,)))
    assert graph.nodes["c"].output_types == (3,)


@pytest.mark.parametrize(
    ("function", "kind", "text"),
    [
        (
            function_def("f", {"x": FLOAT}, {"y": (FLOAT, "n:out:0")}, [node("n", "Identity", "x", T=FLOAT)]),
            InvalidArgument,
            "In function f: input n:out:0 is not found",
        ),
        (
            function_def("f", {"x": FLOAT}, {"y": (FLOAT, "n:output:1")}, [node("n", "Identity", "x", T=FLOAT)]),
            InvalidArgument,
            "In function f: input n:output:1 is out of range: n:output stands for 1 tensors",
        ),
        (
            function_def("f", {"x": FLOAT}, {"y": (INT32, "x")}, []),
            InvalidArgument,
            "In function f: return value x:0 is float, the signature says int32",
        ),
        (
            function_def("f", {"x": FLOAT}, {}, [node("n", "Frob", "x")]),
            NotFound,
            "In function f: Op type not registered 'Frob'",
        ),
        (
            function_def("f", {}, {}, [node("n", "NoOp", "^gone")]),
            InvalidArgument,
            "In function f: node n: control input ^gone is not found",
        ),
        (
            function_def("f", {}, {}, [], controls={"c": "gone"}),
            InvalidArgument,
            "In function f: control output names the node 'gone', which is not in the body",
        ),
        (
            function_def("f", {"x": "T"}, {}, []),
            InvalidArgument,
            "Function f: argument 'x' names the attr 'T', which the signature does not declare",
        ),
    ],
)
def test_a_wrong_body_is_refused(function: object, kind: type[Exception], text: str) -> None:
    with pytest.raises(kind) as caught:
        library(function).body("f")
    assert str(caught.value).startswith(text)


def test_a_missing_return_value_is_named() -> None:
    function = function_def("f", {"x": FLOAT}, {"y": (FLOAT, "x")}, [])
    del function.ret["y"]
    with pytest.raises(InvalidArgument, match="Return value for output argument 'y' is missing"):
        library(function).body("f")


def test_a_function_that_is_not_there_is_named() -> None:
    with pytest.raises(NotFound, match=r"^Function gone is not defined\.$"):
        FunctionLibrary().body("gone")


def test_the_same_function_again_is_fine_and_a_different_one_is_not() -> None:
    same = function_def("f", {"x": FLOAT}, {"y": (FLOAT, "x")}, [])
    functions = library(same)
    again = wire.FunctionDefLibrary()
    again.function.append(same)
    functions.add(again)
    other = wire.FunctionDefLibrary()
    other.function.append(function_def("g", {"x": FLOAT}, {"y": (FLOAT, "x")}, []))
    other.function.append(function_def("f", {"x": INT32}, {"y": (INT32, "x")}, []))
    with pytest.raises(InvalidArgument) as caught:
        functions.add(other)
    assert str(caught.value) == (
        "Cannot add function 'f' because a different function with the same name already exists."
    )
    assert functions.names() == ["f"]


def test_a_function_may_not_take_an_ops_name() -> None:
    with pytest.raises(
        InvalidArgument, match="Cannot add function 'Neg' because an op with the same name already exists"
    ):
        library(function_def("Neg", {"x": FLOAT}, {"y": (FLOAT, "x")}, []))


def test_gradients_are_remembered_and_may_not_change() -> None:
    made = wire.FunctionDefLibrary()
    made.gradient.add(function_name="f", gradient_func="g")
    functions = FunctionLibrary(made)
    assert functions.gradient_of("f") == "g"
    made = wire.FunctionDefLibrary()
    made.gradient.add(function_name="f", gradient_func="h")
    with pytest.raises(InvalidArgument, match="it already has gradient function 'g'"):
        functions.add(made)
    assert [(entry.function_name, entry.gradient_func) for entry in functions.to_proto().gradient] == [("f", "g")]
