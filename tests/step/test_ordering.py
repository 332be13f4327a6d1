"""Writers of variables run late, and nothing else moves."""

from __future__ import annotations

import random

from runtime.dtypes import REF_OFFSET, DataType
from runtime.step.ordering import writers_last

FLOAT, REF = int(DataType.FLOAT), int(DataType.FLOAT) + REF_OFFSET
RESOURCE = int(DataType.RESOURCE)


class FakeNode:
    def __init__(self, name, inputs=(), controls=(), input_types=(), output_types=(FLOAT,)):
        self.name = self.op = name
        self.inputs = [(node, 0) for node in inputs]
        self.control_inputs = list(controls)
        self.input_types = tuple(input_types)
        self.output_types = tuple(output_types)


def names(nodes):
    return [node.name for node in writers_last(nodes)]


def test_an_update_waits_for_the_last_reader_of_the_old_value():
    handle = FakeNode("w", output_types=(RESOURCE,))
    read = FakeNode("read", [handle], input_types=(RESOURCE,))
    update = FakeNode("update", [handle, read], input_types=(RESOURCE, FLOAT), output_types=())
    reader = FakeNode("reader", [read], input_types=(FLOAT,))
    assert names([handle, read, update, reader]) == ["w", "read", "reader", "update"]


def test_what_a_control_edge_puts_behind_an_update_stays_behind_it():
    handle = FakeNode("w", output_types=(RESOURCE,))
    update = FakeNode("update", [handle], input_types=(RESOURCE,), output_types=())
    after = FakeNode("after", [handle], [update], input_types=(RESOURCE,))
    other = FakeNode("other")
    assert names([handle, update, after, other]) == ["w", "other", "update", "after"]


def test_reference_updates_count_too_and_a_graph_without_updates_keeps_its_order():
    variable = FakeNode("v", output_types=(REF,))
    assign = FakeNode("assign", [variable], input_types=(REF, FLOAT), output_types=(REF,))
    plain = FakeNode("plain")
    assert names([variable, assign, plain]) == ["v", "plain", "assign"]
    assert names([variable, plain]) == ["v", "plain"]


def test_random_graphs_keep_every_node_behind_its_inputs():
    generator = random.Random(3)
    for _ in range(200):
        nodes = []
        for index in range(30):
            before = generator.sample(nodes, min(len(nodes), generator.randrange(3)))
            controls = generator.sample(nodes, min(len(nodes), generator.randrange(2)))
            writes = generator.random() < 0.3
            nodes.append(FakeNode(str(index), before, controls, (RESOURCE,) if writes else (FLOAT,),
                                  () if writes else (FLOAT,)))
        place = {node: index for index, node in enumerate(writers_last(nodes))}
        assert len(place) == len(nodes)
        for node in nodes:
            for source in [source for source, _ in node.inputs] + node.control_inputs:
                assert place[source] < place[node]
