"""Checklist 2, 7, 9 to 11, 15, 17 to 23 and 60 with TensorFlow's client: the life of a session."""

from __future__ import annotations

import re

import pytest

from tests.interop.programs import CPU, Seen, from_task

PROGRAM = "sessions_tf"
QUEUE_OPS = ("FIFOQueueV2", "QueueEnqueueV2", "QueueDequeueV2", "QueueSizeV2")


def test_2_a_hundred_megabytes_there_and_back(seen: Seen) -> None:
    assert seen("hundred_megabytes") == {"bytes": 100 << 20, "right": True}


def test_7_a_blocked_step_ends_at_its_timeout_and_loses_no_element(seen: Seen) -> None:
    assert seen("blocked_step_and_its_timeout", *QUEUE_OPS) == {"code": 4, "in time": True, "next": 5.0}


def test_7_the_sessions_timeout_holds_where_a_step_sets_none(seen: Seen) -> None:
    assert seen("timeout_of_the_session", *QUEUE_OPS) == {"code": 4, "in time": True}


def test_a_blocked_step_gets_what_another_session_puts(seen: Seen) -> None:
    assert seen("blocked_step_gets_what_another_session_puts", *QUEUE_OPS) == 7.0


def test_9_a_kernels_error_names_its_task_and_its_node_once(seen: Seen) -> None:
    text = "Input to reshape is a tensor with 4 values, but the requested shape has 7\n\t [[{{node scope/bad}}]]"
    assert seen("error_of_a_kernel") == [from_task(3, text)] * 2


def test_10_closing_ends_a_blocked_step_with_the_text(seen: Seen) -> None:
    assert seen("close_during_a_blocked_step", *QUEUE_OPS) == {
        "closed": True,
        "step": {"code": 1, "message": "Step was cancelled by an explicit call to `Session::Close()`."},
    }


def test_11_devices_are_listed_before_there_is_a_graph(seen: Seen) -> None:
    assert seen("devices_of_an_empty_session") == {
        "devices": [[CPU, "CPU", 268435456]],
        "incarnation": True,
        "same again": True,
    }


def test_15_a_failed_extension_changes_nothing(seen: Seen) -> None:
    assert seen("extension_that_fails") == {"first": [1.0, 2.0], "failed": [3, 3]}


def uninitialized(name: str, node: str) -> dict[str, object]:
    return from_task(9, f"Attempting to use uninitialized value {name}\n\t [[{{{{node {node}}}}}]]")


def missing(name: str, node: str, container: str) -> dict[str, object]:
    return from_task(
        9,
        f"Could not find variable {name}. This could mean that the variable has been deleted. In TF1, it can also "
        f"mean the variable is uninitialized. Debug info: container={container}, status error message=Resource "
        f"{container}/{name}/N10tensorflow3VarE does not exist.\n\t [[{{{{node {node}}}}}]]",
    )


def test_17_reset_empties_the_default_container_and_closes_every_session(seen: Seen) -> None:
    answer = seen("reset_without_containers")
    for error in answer["closed"]:
        assert error["code"] == 10
        assert re.fullmatch(r"Session [0-9a-f]{16} is not found\.", error["message"])
    assert answer["after"] == [
        uninitialized("reset_all", "reset_all/read"),
        missing("reset_all_resource", "Read/ReadVariableOp", "localhost"),
    ]


def test_18_reset_of_a_container_keeps_the_others(seen: Seen) -> None:
    answer = seen("reset_of_one_container")
    assert (answer["before"], answer["closed"], answer["kept"]) == (3.0, 10, 3.0)
    assert answer["gone"] == [uninitialized("gone", "gone/read"), missing("gone_resource", "Read/ReadVariableOp", "c")]


def test_19_thread_pools_are_refused(seen: Seen) -> None:
    text = "Distributed session does not support session thread pool options."
    assert seen("thread_pools") == [{"code": 3, "message": text}] * 2


def test_20_the_own_task_stays_whatever_the_filters(seen: Seen) -> None:
    assert seen("device_filters") == {"devices": [CPU], "value": 1.0}


@pytest.mark.parametrize("kind", ["ref", "resource"])
def test_21_isolated_sessions_share_nothing(seen: Seen, kind: str) -> None:
    assert seen("isolated_sessions")[kind] == {"before": [9, 9], "values": [1.0, 2.0, 3.0]}


@pytest.mark.parametrize("kind", ["ref", "resource"])
def test_22_variables_outlive_the_session_that_set_them(seen: Seen, kind: str) -> None:
    assert seen("variables_outlive_their_session")[kind] == [7.0, 7.0, 7.0]


def test_23_a_cluster_in_the_config_renames_the_devices_and_isolates(seen: Seen) -> None:
    device = "/job:renamed/replica:0/task:3/device:CPU:0"
    answer = seen("cluster_in_the_config")
    before = answer.pop("before")
    assert answer == {"names": [device], "same incarnations": True, "value": 2.0, "places": [device], "shared": 1.0}
    assert before["code"] == 9
    assert before["message"].startswith(
        "From /job:renamed/replica:0/task:3:\nAttempting to use uninitialized value of_a_cluster"
    )


def test_23_a_cluster_without_the_master_is_refused(seen: Seen) -> None:
    assert seen("cluster_without_the_master") == (
        "The master (current machine) is not included in the provided cluster_def"
    )


def test_60_uninitialized_variables_fail_with_the_texts(seen: Seen) -> None:
    assert seen("uninitialized_variables") == {
        "known": [False, False],
        "missing": ["never_ref", "scope/never_resource"],
        "fetched": uninitialized("never_ref", "_send_never_ref_0"),
        "read": uninitialized("never_ref", "never_ref/read"),
        "added": uninitialized("never_ref", "AssignAdd"),
        "resource read": missing("scope/never_resource", "Read_1/ReadVariableOp", "localhost"),
        "resource added": from_task(
            5,
            "Resource localhost/scope/never_resource/N10tensorflow3VarE does not exist."
            "\n\t [[{{node AssignAddVariableOp}}]]",
        ),
    }


def test_a_closed_session_says_so(seen: Seen) -> None:
    assert seen("operations_on_a_closed_session") == "Attempted to use a closed Session."
