"""Checklist 37 and 40 to 45 with TensorFlow's client: dead values, partial runs, callables, metadata."""

from __future__ import annotations

import pytest

from tests.interop.programs import CPU, FROM, JOB, Seen

PROGRAM = "steps_tf"


def refused(text: str) -> dict[str, object]:
    return {"code": 3, "message": text}


def test_37_40_45_a_dead_fetch_tells_step_and_device_and_fails_alone(seen: Seen) -> None:
    assert seen("dead_fetch") == {
        "values": [1.0, 2.0, 3.0],
        "codes": [13],
        "names": [f"/job:{JOB}/replica:0/task:0: {CPU} dead:0"],
        "steps differ": True,
        "steps are short": True,
        "incarnation": True,
    }


def test_36_a_signature_runs_again_however_it_is_spelled(seen: Seen) -> None:
    assert seen("same_signature_again") == [
        [[index * 2.0], [index + 1.0]][:: 1 if index % 2 else -1] for index in range(50)
    ]


def test_steps_of_one_session_run_at_the_same_time_while_it_grows(seen: Seen) -> None:
    assert seen("concurrent_steps") == {"wrong": [], "left": 0}


def test_42_a_partial_run_goes_on_from_call_to_call(seen: Seen) -> None:
    assert seen("partial_run") == [[0.0, 0.0], [1.0, 11.0], [2.0, 22.0], [1.0, 3.0]]


def test_42_each_text_of_a_partial_run(seen: Seen) -> None:
    assert seen("partial_run_texts") == {
        "feed not set up": refused("The feed c:0 was not specified in partial_run_setup."),
        "fetch not set up": refused("The fetch c:0 was not specified in partial_run_setup."),
        "too early": refused("Fetch w:0 can't be computed from the feeds that have been fed so far."),
        "first": 1.0,
        "fed again": refused("The feed x:0 has already been fed."),
        "fetched again": refused("The fetch y:0 has already been fetched."),
        "last": 2.0,
        "after the end": refused("Must run PartialRunSetup before performing partial runs"),
    }


def test_42_a_partial_run_trains(seen: Seen) -> None:
    chosen, lost, weights = seen("partial_run_with_state")
    assert (chosen, lost) == ([[3.0]], 1.0)
    assert weights[0] == pytest.approx([0.8, 1.8])


def test_43_callables_as_python_makes_them(seen: Seen) -> None:
    assert seen("made_callable") == [[3.0, 2.0], [7.0, 4.0], 4.0]


def test_43_callables_go_by_position(seen: Seen) -> None:
    answer = seen("callable_from_options")
    assert answer == {
        "values": [7.0, 5.0],
        "again": [8.0, 5.0],
        "connected": [6.0],
        "target": [],
        "vectors": [[[]], [[0.0]], [[0.0, 2.0, 4.0]]],
        "wrong type": {
            "code": 13,
            "message": f"{FROM}Output 0 of type int32 does not match declared output type float for node "
            "{{node _recv_w_0}}",
        },
        "traced": [1.0],
        "devices": [],
        "after": [11.0],
    }


def test_43_callables_that_cannot_be_are_refused(seen: Seen) -> None:
    assert seen("callable_that_cannot_be") == {
        "nothing": refused("Must specify at least one target to fetch or execute."),
        "fetch": {"code": 5, "message": "FetchOutputs node nono:0: not found"},
        "feed": {"code": 5, "message": "FeedInputs: unable to find feed output zzz:0"},
        "twice": refused('Endpoint "x:0" fed more than once.'),
        "target": {"code": 5, "message": "PruneForTargets: Some target nodes not found: nope "},
        "devices": {
            "code": 12,
            "message": "CallableOptions::feed_devices and CallableOptions::fetch_devices to configure feeding/fetching "
            "tensors to/from device memory is not yet supported when using a remote session.",
        },
        "connection": refused('Requested tensor connection from unknown node: "x:0".'),
        "cycle": refused('Requested Tensor connection between nodes "x" and "y" would create a cycle.'),
    }


def test_44_a_full_trace_feeds_the_timeline(seen: Seen) -> None:
    answer = seen("full_trace")
    ops = answer.pop("ops")
    assert answer == {
        "value": [[3.0] * 4] * 2,
        "devices": [CPU],
        "named": True,
        "events": True,
        "times": True,
        "shapes": True,
        "bare": 0,
    }
    # TensorFlow's optimizer may fuse what we run node by node.
    assert {"MatMul", "Relu"} <= set(ops) or "_FusedMatMul" in ops


def test_44_the_graphs_that_ran_come_back(seen: Seen) -> None:
    assert seen("graphs_that_ran") == {
        "names": ["_recv_x_0", "_send_y_0", "y"],
        "devices": [CPU],
        "transpose_a": "b",
        "fed as": "x:0",
        "sent as": "y:0",
        "input": ["_recv_x_0", "_recv_x_0"],
    }
