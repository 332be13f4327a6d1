"""A step's signature: its checks with TensorFlow's texts, and the nodes it needs."""

from __future__ import annotations

import random

import pytest

from runtime.dtypes import DataType
from runtime.errors import Error, InvalidArgument, NotFound
from runtime.graph.graph import Graph, is_back_edge
from runtime.graph.prune import Selection, select
from tests.graph.graphs import FLOAT, const, graph_def, identity, names_of, node, placeholder


@pytest.fixture(scope="module")
def graph() -> Graph:
    return Graph.from_proto(
        graph_def(
            const("ca", 1.0),
            placeholder("x"),
            identity("y", "x"),
            placeholder("p2"),
            identity("z", "y", "^p2"),
            node("nop", "NoOp"),
            node("v", "VariableV2", dtype=FLOAT, shape=()),
            node("n", "IdentityN", "x", "y", T=[FLOAT, FLOAT]),
            identity("after", "n:1", "^ca"),
            placeholder("unneeded"),
            identity("last", "ca", "^n"),
        )
    )


CASES = [
    # feeds, fetches, targets, error, text
    ([], [], [], InvalidArgument, "Must specify at least one target to fetch or execute."),
    (["x:0", "x:0"], [], [], InvalidArgument, "Must specify at least one target to fetch or execute."),
    (["x:0", "x:0"], ["y:0"], [], InvalidArgument, 'Endpoint "x:0" fed more than once.'),
    (["x:0", "x:0"], ["x:0"], [], InvalidArgument, 'Endpoint "x:0" fed more than once.'),
    (["x", "x:0"], ["y:0"], [], InvalidArgument, 'Endpoint "x:0" fed more than once.'),
    (["x:0"], ["x:0"], [], InvalidArgument, "x:0 is both fed and fetched."),
    (["x:0"], ["nono", "x:0"], [], InvalidArgument, "x:0 is both fed and fetched."),
    (["zzz:0"], ["y:0"], [], NotFound, "FeedInputs: unable to find feed output zzz:0"),
    (["zzz"], ["nono"], ["no"], NotFound, "FeedInputs: unable to find feed output zzz"),
    ([""], ["y"], [], NotFound, "FeedInputs: unable to find feed output "),
    (["ca:3"], ["y:0"], [], InvalidArgument, "FeedInputs: ca:3 should have output index < 1"),
    (["nop"], ["y:0"], [], InvalidArgument, "FeedInputs: nop should have output index < 0"),
    (["^ca"], ["y:0"], [], InvalidArgument, "FeedInputs: ^ca should have output index < 1"),
    ([], ["nonono:0"], ["no"], NotFound, "FetchOutputs node nonono:0: not found"),
    ([], ["^zz"], [], NotFound, "FetchOutputs node ^zz: not found"),
    (
        [],
        ["nop:0"],
        [],
        InvalidArgument,
        "Tried to fetch data for 'nop:0', which produces no output.  To run to a node but not fetch any data, pass "
        "'nop:0' as an argument to the 'target_node_names' argument of the Session::Run API.",
    ),
    ([], ["ca:1"], [], InvalidArgument, "FetchOutputs ca:1: output index too large, must be < 1"),
    (
        [],
        ["^ca"],
        [],
        InvalidArgument,
        "Attempt to add output -1 of ca not in range [0, 1) to node with type _Send. Node: {{node ca}}",
    ),
    ([], [], ["nope"], NotFound, "PruneForTargets: Some target nodes not found: nope "),
    ([], ["ca"], ["nope", "nope2:0", "ca:7"], NotFound, "PruneForTargets: Some target nodes not found: nope nope2:0 "),
]


@pytest.mark.parametrize(("feeds", "fetches", "targets", "kind", "text"), CASES)
def test_a_wrong_signature_is_refused_in_tensorflows_words(
    graph: Graph, feeds: list[str], fetches: list[str], targets: list[str], kind: type[Error], text: str
) -> None:
    with pytest.raises(kind) as caught:
        select(graph, feeds, fetches, targets)
    assert type(caught.value) is kind
    assert str(caught.value) == text


def needed(graph: Graph, feeds: list[str], fetches: list[str], targets: list[str] | None = None) -> set[str]:
    selection = select(graph, feeds, fetches, targets or [])
    check_order(selection)
    return set(names_of(selection.nodes))


def check_order(selection: Selection) -> None:
    place = {item: index for index, item in enumerate(selection.nodes)}
    assert len(place) == len(selection.nodes)
    for item in selection.nodes:
        for edge in item.inputs:
            if edge not in selection.fed and not is_back_edge(edge[0], item):
                assert place[edge[0]] < place[item]
        for source in item.control_inputs:
            assert place.get(source, -1) < place[item]


def test_only_what_leads_to_fetches_and_targets_is_needed(graph: Graph) -> None:
    assert needed(graph, [], ["ca"]) == {"ca"}
    assert needed(graph, [], ["z:0"]) == {"x", "y", "p2", "z"}
    assert needed(graph, [], ["ca:0"], ["nop", "^y"]) == {"ca", "nop", "x", "y"}
    assert needed(graph, [], ["last"]) == {"ca", "n", "x", "y", "last"}


def test_a_fed_output_cuts_what_is_behind_it(graph: Graph) -> None:
    assert needed(graph, ["x:0"], ["y:0"]) == {"y"}
    assert needed(graph, ["y:0"], ["z:0"]) == {"p2", "z"}
    assert needed(graph, ["n:1"], ["after"]) == {"after", "ca"}


def test_control_edges_of_a_fed_placeholder_are_satisfied(graph: Graph) -> None:
    assert needed(graph, ["x:0", "p2:0"], ["z:0"]) == {"y", "z"}


def test_control_edges_of_other_fed_nodes_still_run_them(graph: Graph) -> None:
    assert needed(graph, ["n:1", "ca:0"], ["after"]) == {"after", "ca"}
    assert needed(graph, ["n:0", "n:1", "x"], ["last"]) == {"ca", "n", "y", "last"}


def test_a_fed_target_still_runs(graph: Graph) -> None:
    assert needed(graph, ["ca:0"], [], ["ca"]) == {"ca"}


def test_names_types_and_order_of_the_request_are_kept(graph: Graph) -> None:
    selection = select(graph, ["p2", "x:0"], ["v", "y:0", "y"], ["z", "z:0"])
    assert [(name, item.name, slot, kind) for name, item, slot, kind in selection.feeds] == [
        ("p2", "p2", 0, DataType.FLOAT),
        ("x:0", "x", 0, DataType.FLOAT),
    ]
    assert [(name, item.name, kind) for name, item, _, kind in selection.fetches] == [
        ("v", "v", DataType.FLOAT),
        ("y:0", "y", DataType.FLOAT),
        ("y", "y", DataType.FLOAT),
    ]
    assert names_of(selection.targets) == ["z"]


def test_a_fetch_of_a_fed_endpoint_under_another_name_needs_nothing(graph: Graph) -> None:
    selection = select(graph, ["x"], ["x:0"], [])
    assert selection.nodes == []
    assert selection.fetches[0][:3] == ("x:0", graph.nodes["x"], 0)


def test_loops_are_ordered_from_their_heads() -> None:
    graph = Graph.from_proto(
        graph_def(
            placeholder("p"),
            const("limit", 10.0),
            node("e", "Enter", "p", T=FLOAT, frame_name=b"f"),
            node("el", "Enter", "limit", T=FLOAT, frame_name=b"f", is_constant=True),
            node("m", "Merge", "e", "next", N=2, T=FLOAT),
            node("less", "Less", "m", "el", T=FLOAT),
            node("c", "LoopCond", "less"),
            node("s", "Switch", "m", "c", T=FLOAT),
            node("exit", "Exit", "s", T=FLOAT),
            identity("body", "s:1"),
            const("one", 1.0, "^body"),
            node("add", "Add", "body", "one", T=FLOAT),
            node("next", "NextIteration", "add", T=FLOAT),
        )
    )
    for fetch in ("exit", "body", "less", "next"):
        assert needed(graph, ["p"], [fetch]) >= {"e", "m", "next", "s", "body", "less"}


def test_random_graphs_are_ordered_and_complete() -> None:
    for seed in range(20):
        rng = random.Random(seed)
        nodes = [const("n0", 1.0)]
        for index in range(1, 200):
            sources = [f"n{rng.randrange(index)}" for _ in range(2)]
            controls = [f"^n{rng.randrange(index)}" for _ in range(rng.randrange(3))]
            nodes.append(node(f"n{index}", "AddV2", *sources, *controls, T=FLOAT))
        rng.shuffle(nodes)
        graph = Graph.from_proto(graph_def(*nodes))
        fetch = f"n{rng.randrange(200)}"
        found = needed(graph, [], [fetch])
        wanted, todo = set(), [graph.nodes[fetch]]
        while todo:
            item = todo.pop()
            if item.name not in wanted:
                wanted.add(item.name)
                todo.extend([source for source, _ in item.inputs] + item.control_inputs)
        assert found == wanted


def test_a_chain_deeper_than_the_stack_is_no_problem() -> None:
    nodes = [const("n0", 1.0)] + [identity(f"n{index}", f"n{index - 1}") for index in range(1, 50_000)]
    graph = Graph.from_proto(graph_def(*nodes))
    assert len(select(graph, [], ["n49999"], []).nodes) == 50_000
