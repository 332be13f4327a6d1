"""GraphDef in: names, inputs, types, cycles, extension. The texts are those of TensorFlow 2.21."""

from __future__ import annotations

import threading

import pytest

from runtime import wire
from runtime.dtypes import DataType
from runtime.errors import InvalidArgument, NotFound
from runtime.graph.graph import Graph
from tests.graph.graphs import FLOAT, INT32, const, function_def, graph_def, identity, node, placeholder


def build(*nodes: object, **options: object) -> Graph:
    return Graph.from_proto(graph_def(*nodes, **options))


def refused(*nodes: object, kind: type[Exception] = InvalidArgument, **options: object) -> str:
    with pytest.raises(kind) as caught:
        build(*nodes, **options)
    return str(caught.value)


def test_data_and_control_edges_are_connected_in_any_order_of_nodes() -> None:
    late_first = build(identity("b", "a:0", "^c"), const("c", 2.0), const("a", 1.0))
    node_b = late_first.nodes["b"]
    assert [(source.name, slot) for source, slot in node_b.inputs] == [("a", 0)]
    assert [source.name for source in node_b.control_inputs] == ["c"]
    in_order = build(const("c", 2.0), const("a", 1.0), identity("b", "a:0", "^c"))
    assert in_order.nodes["b"].inputs == [(in_order.nodes["a"], 0)]
    assert in_order.nodes["b"].control_inputs == [in_order.nodes["c"]]


def test_types_follow_attrs_numbers_and_lists() -> None:
    graph = build(
        const("a", 1.0),
        const("axis", 0),
        node("s", "Split", "axis", "a", num_split=3, T=FLOAT),
        node("n", "IdentityN", "a", "axis", T=[FLOAT, INT32]),
        node("c", "Cast", "s:2", SrcT=FLOAT, DstT=INT32),
    )
    assert graph.nodes["s"].output_types == (1, 1, 1)
    assert graph.nodes["n"].input_types == (1, 3)
    assert graph.nodes["c"].output_types == (3,)


def test_references_carry_their_mark_and_feed_values() -> None:
    graph = build(
        node("v", "VariableV2", dtype=FLOAT, shape=()),
        identity("read", "v"),
        const("one", 1.0),
        node("assign", "Assign", "v", "one", T=FLOAT),
    )
    assert graph.nodes["v"].output_types == (101,)
    assert graph.nodes["assign"].input_types == (101, 1)


@pytest.mark.parametrize("name", ["a b", "", "_a", "a:0", "^a", "é", "a\n"])
def test_a_bad_node_name_is_refused(name: str) -> None:
    assert refused(const(name, 1.0)) == f"Illegal op name '{name}'\n\t [[{{{{node {name}}}}}]]"


@pytest.mark.parametrize("name", ["a", ".a", "a/b-c_d.e>f\\g", "0"])
def test_a_good_node_name_is_taken(name: str) -> None:
    assert build(const(name, 1.0)).nodes[name].op == "Const"


def test_a_runtime_may_use_internal_names() -> None:
    graph = Graph.from_proto(graph_def(const("_a", 1.0), identity("_b", "_a", "^_a")), internal=True)
    assert graph.nodes["_b"].inputs == [(graph.nodes["_a"], 0)]


@pytest.mark.parametrize("text", ["a b", "a:x", "a:-1", "a:01", "^a:0", "", "a:²", "_a"])
def test_a_bad_input_name_is_refused(text: str) -> None:
    message = refused(const("a", 1.0), identity("b", text))
    assert message == f"Illegal op input name '{text}'\n\t [[{{{{node b}}}}]]"


def test_data_inputs_come_before_control_inputs() -> None:
    message = refused(const("a", 1.0), identity("b", "^a", "a"))
    assert message == "All control inputs must follow all data inputs\n\t [[{{node b}}]]"


def test_a_duplicate_name_is_refused() -> None:
    assert refused(const("a", 1.0), const("a", 1.0)) == "Node 'a' is not unique"


@pytest.mark.parametrize("text", ["zz", "^zz", "zz:3"])
def test_an_unknown_input_is_named(text: str) -> None:
    assert refused(identity("b", text)) == f"Node 'b': Unknown input node '{text}'"


def test_a_slot_out_of_range_is_refused() -> None:
    message = refused(const("a", 1.0), identity("b", "a:3"))
    assert message == "Node 'b': Connecting to invalid output 3 of source node a which has 1 outputs."
    message = refused(node("a", "NoOp"), identity("b", "a"))
    assert message == "Node 'b': Connecting to invalid output 0 of source node a which has 0 outputs."


def test_types_of_both_ends_must_agree() -> None:
    message = refused(const("a", 1.0), identity("b", "a", dtype=INT32))
    assert message == "Input 0 of node b was passed float from a:0 incompatible with expected int32."


def test_a_value_is_no_reference() -> None:
    message = refused(const("a", 1.0), node("b", "Assign", "a", "a", T=FLOAT))
    assert message == "Input 0 of node b was passed float from a:0 incompatible with expected float_ref."


def test_the_number_of_inputs_must_agree() -> None:
    assert refused(const("a", 1.0), identity("b", "a", "a")) == (
        "Input 1 of node b does not exist. Node only has 1 inputs."
    )
    assert refused(identity("b")) == (
        "NodeDef expected inputs 'float' do not match 0 inputs specified; "
        "Op<name=Identity; signature=input:T -> output:T>; NodeDef: {{node b}}"
    )


def test_cycles_are_refused_and_their_nodes_named() -> None:
    assert refused(identity("a", "b"), identity("b", "a")) == "2 nodes in a cycle: a, b"
    assert refused(identity("a", "a")) == "1 nodes in a cycle: a"
    assert refused(node("a", "NoOp", "^b"), node("b", "NoOp", "^a")) == "2 nodes in a cycle: a, b"
    chain = [identity(f"n{index}", f"n{(index - 1) % 50}") for index in range(50)]
    assert refused(*chain).endswith("n8, n9, ...")


def loop(back: str) -> list[object]:
    return [
        placeholder("p"),
        node("e", "Enter", "p", T=FLOAT, frame_name=b"f"),
        node("m", "Merge", "e", "n", N=2, T=FLOAT),
        node("n", back, "m", T=FLOAT),
    ]


def test_a_loop_closes_through_next_iteration_alone() -> None:
    graph = build(*loop("NextIteration"))
    assert graph.nodes["m"].inputs == [(graph.nodes["e"], 0), (graph.nodes["n"], 0)]
    assert refused(*loop("Identity")) == "2 nodes in a cycle: m, n"


def test_a_missing_type_attr_is_named() -> None:
    message = refused(node("a", "Placeholder"), kind=NotFound)
    assert message == "No attr named 'dtype' in NodeDef:\n\t [[{{node a}}]]"


def test_a_default_fills_a_missing_type_attr() -> None:
    assert build(const("a", 1.0), node("s", "Shape", "a", T=FLOAT)).nodes["s"].output_types == (DataType.INT32,)


@pytest.mark.parametrize("value", [3, b"x", DataType.INVALID])
def test_a_type_attr_of_another_kind_is_refused(value: object) -> None:
    message = refused(node("a", "Placeholder", dtype=value))
    assert message.startswith("AttrValue has invalid DataType\n\t for attr 'dtype'\n\t; NodeDef: {{node a}}; Op<name=")


def test_a_type_number_from_the_future_is_refused() -> None:
    strange = wire.NodeDef(name="a", op="Placeholder")
    strange.attr["dtype"].type = 77
    assert "AttrValue has invalid DataType" in refused(strange)


def test_a_type_outside_the_allowed_ones_is_refused() -> None:
    message = refused(placeholder("a", DataType.STRING), node("b", "Neg", "a", T=DataType.STRING))
    assert message.startswith("Value for attr 'T' of string is not in the list of allowed values: bfloat16, ")


def test_a_count_that_would_fill_the_memory_is_refused() -> None:
    message = refused(const("a", 1.0), const("axis", 0), node("s", "Split", "axis", "a", num_split=1 << 40, T=FLOAT))
    assert message.startswith(f"Value for attr 'num_split' of {1 << 40} must be between 0 and ")
    assert "-7" in refused(const("a", 1.0), const("axis", 0), node("s", "Split", "axis", "a", num_split=-7, T=FLOAT))


def test_unknown_attrs_are_ignored_and_kept() -> None:
    proto = identity("b", "a")
    proto.attr["_class"].list.s.append(b"loc:@a")
    proto.attr["from_the_future"].i = 1
    graph = build(const("a", 1.0), proto)
    assert graph.nodes["b"].attr("_class") == [b"loc:@a"]
    assert graph.nodes["b"].attr("from_the_future") == 1


def test_an_unknown_op_is_not_found() -> None:
    message = refused(node("a", "Frobnicate"), kind=NotFound)
    assert message.startswith("Op type not registered 'Frobnicate' in binary running on ")


def test_versions_that_exclude_us_are_refused() -> None:
    made = graph_def(const("a", 1.0), producer=3000)
    made.versions.min_consumer = 100000
    with pytest.raises(InvalidArgument, match="GraphDef min consumer version 100000 above current version 2474 for"):
        Graph.from_proto(made)
    made.versions.min_consumer = 12
    made.versions.bad_consumers.append(2474)
    with pytest.raises(InvalidArgument, match="GraphDef disallows consumer version 2474"):
        Graph.from_proto(made)
    made.versions.bad_consumers[:] = [2475]
    assert len(Graph.from_proto(made).nodes) == 1
    with pytest.raises(InvalidArgument, match="GraphDef producer version -5 below min producer 0"):
        build(const("a", 1.0), producer=-5)


def test_extend_adds_nodes_that_use_old_ones() -> None:
    graph = build(const("a", 1.0))
    added = graph.extend(graph_def(identity("b", "a")))
    assert [item.name for item in added] == ["b"]
    assert graph.nodes["b"].inputs == [(graph.nodes["a"], 0)]


def test_extend_refuses_a_node_that_exists() -> None:
    graph = build(const("a", 1.0))
    with pytest.raises(InvalidArgument) as caught:
        graph.extend(graph_def(identity("b", "a"), const("a", 1.0)))
    assert str(caught.value) == (
        "GraphDef argument to Extend includes node 'a', which was created by a previous call to "
        "Create or Extend in this session."
    )
    assert list(graph.nodes) == ["a"]


def test_extend_refuses_another_producer() -> None:
    graph = build(const("a", 1.0))
    with pytest.raises(InvalidArgument, match="^Can't extend GraphDef at version 2474 with graph at version 134$"):
        graph.extend(graph_def(identity("b", "a"), producer=134))
    empty = build()
    empty.extend(graph_def(const("a", 1.0), producer=134))
    assert empty.versions.producer == 134


def test_a_failed_extend_changes_nothing() -> None:
    graph = build(const("a", 1.0))
    function = function_def("f", {"x": FLOAT}, {"y": (FLOAT, "x")}, [])
    with pytest.raises(InvalidArgument):
        graph.extend(graph_def(identity("b", "a"), identity("c", "nowhere"), functions=(function,)))

    def reject(nodes: object) -> None:
        raise InvalidArgument("not here")

    with pytest.raises(InvalidArgument, match="not here"):
        graph.extend(graph_def(identity("b", "a"), functions=(function,)), reject)
    assert list(graph.nodes) == ["a"]
    assert "f" not in graph.library
    graph.extend(graph_def(identity("b", "a"), identity("c", "b"), functions=(function,)))
    assert list(graph.nodes) == ["a", "b", "c"]
    assert "f" in graph.library


def test_the_graph_comes_out_as_it_went_in() -> None:
    first = graph_def(const("a", 1.0))
    first.debug_info.files.append("model.py")
    raw = wire.GraphDef.FromString(first.SerializeToString() + b"\xfa\x7f\x03new")  # field 2047, unknown here
    graph = Graph.from_proto(raw)
    function = function_def("f", {"x": FLOAT}, {"y": (FLOAT, "x")}, [])
    graph.extend(graph_def(node("c", "f", "a"), functions=(function,)))
    out = graph.to_proto()
    assert [item.name for item in out.node] == ["a", "c"]
    assert out.debug_info.files == ["model.py"]
    assert out.versions.producer == 2474
    assert [item.signature.name for item in out.library.function] == ["f"]
    assert b"\xfa\x7f\x03new" in out.SerializeToString()


def test_extensions_from_many_threads_all_arrive() -> None:
    graph = build(const("a", 1.0))
    errors = []

    def extend(number: int) -> None:
        try:
            for index in range(50):
                graph.extend(graph_def(identity(f"t{number}_{index}", "a")))
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=extend, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not errors
    assert len(graph.nodes) == 201
