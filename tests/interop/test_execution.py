"""Checklist 56 to 59 and 61 with TensorFlow's client: control flow, functions, random numbers, queues."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.interop.programs import FROM, Answers, Seen, from_task

PROGRAM = "execution_tf"
FORMS = ["v1", "v2"]
ARRAY_OPS = ("TensorArrayV3", "TensorArrayScatterV3", "TensorArrayGradV3", "TensorListStack", "StackV2")
STACK_OPS = ("StackV2", "StackPushV2", "StackPopV2", "TensorListPushBack", "TensorListPopBack")
QUEUE_OPS = ("FIFOQueueV2", "QueueEnqueueV2", "QueueDequeueV2", "QueueSizeV2", "QueueCloseV2")
BATCH_OPS = ("QueueEnqueueManyV2", "QueueDequeueManyV2", "QueueDequeueUpToV2")


def about(expected: Any) -> Any:
    """Return nested lists of numbers that are equal within float32's rounding."""
    if isinstance(expected, list):
        return [about(item) for item in expected]
    return pytest.approx(expected, rel=2e-5, abs=2e-6) if isinstance(expected, float) else expected


def test_56_merge_takes_the_live_input_and_tells_which(seen: Seen) -> None:
    assert seen("merge_takes_the_live_input") == [[10.0, 0], [100.0, 1]]


@pytest.mark.parametrize("form", FORMS)
def test_56_only_the_taken_branch_runs(seen: Seen, form: str) -> None:
    assert seen("conditionals")[form] == {
        "taken": 3.0,
        "other": 3,
        "counted": 1.0,
        "nested": [1.0, 2.0, 3.0],
        "case": [10.0, 20.0, 30.0, 30.0],
    }


@pytest.mark.parametrize("form", FORMS)
def test_gradient_through_a_conditional(seen: Seen, form: str) -> None:
    assert seen("gradient_through_a_conditional")[form] == [4.0, -3.0]


@pytest.mark.parametrize("form", FORMS)
def test_57_loops_give_the_same_however_many_iterations_run_at_once(seen: Seen, form: str) -> None:
    nested = sum(i * j for i in range(8) for j in range(i))
    assert seen("loops")[form] == {
        **{str(n): [[n, float(sum(range(n)))]] * 2 for n in (0, 1, 100)},
        "nested": [8, nested],
    }


@pytest.mark.parametrize("form", FORMS)
def test_56_a_loop_in_an_untaken_branch_ends(seen: Seen, form: str) -> None:
    assert seen("loop_in_an_untaken_branch")[form] == [12, -1, 12]


@pytest.mark.parametrize("form", FORMS)
def test_arrays_in_loops(seen: Seen, form: str) -> None:
    assert seen("arrays_in_loops", *ARRAY_OPS)[form] == [
        [[1.0, 2.0], [4.0, 6.0], [9.0, 12.0]],
        [6.0, 14.0, 22.0],
        [9.0, 12.0],
        [[28.0, 40.0], [26.0, 36.0], [18.0, 24.0]],
    ]


@pytest.mark.parametrize("form", FORMS)
def test_gradient_through_a_loop(seen: Seen, form: str) -> None:
    assert seen("gradient_through_a_loop", *STACK_OPS)[form] == [8.0, 12.0]


def test_a_recurrent_network_and_its_gradient(both: Seen) -> None:
    ours, theirs = both("recurrent_network", *STACK_OPS)
    assert ours == {form: about(value) for form, value in theirs.items()}
    assert ours["v1"] == about(ours["v2"])


def test_functions_of_both_generations(seen: Seen) -> None:
    # y = 4 x + (1 + 2 x), d((2 x)^2)/dx = 8 x, then the older one's two results.
    assert seen("functions") == [
        [[7.0, 13.0], [8.0, 16.0], [-1.0, -1.0], [2.0, 6.0]],
        [3.0, 5.0],
    ]


def test_an_error_in_a_function_names_the_node_once(seen: Seen) -> None:
    assert seen("error_in_a_function") == {
        "code": 3,
        "start": [FROM.strip(), "Input to reshape is a tensor with 2 values, but the requested shape has 7"],
        "inner": True,
        "after": [float(number) for number in range(7)],
    }


def test_58_a_seeded_op_goes_on_in_a_session_and_starts_again_in_a_new_one(both: Seen) -> None:
    ours, theirs = both("random_ops")
    assert ours == about(theirs)
    first, second, again, second_again = ours
    assert first == again
    assert second == second_again
    # All but the stateless one differ from run to run.
    assert [one == other for one, other in zip(first, second)] == [False] * 5 + [True, False]
    assert first[0] == about([0.38693, 0.36003])
    assert second[0] == about([0.19575, 0.07571])


def test_58_random_choices(both: Seen) -> None:
    ours, theirs = both("random_choices", "Multinomial")
    assert ours == theirs
    assert ours[0] != ours[1] or ours[1] != ours[2]


def test_58_unseeded_ops_differ(seen: Seen) -> None:
    assert seen("unseeded_random_ops") == {"differ": True, "range": True}


def without_number(text: str) -> str:
    """Return a text without the number that a server gives a queue of a session's own."""
    return re.sub(r"'_\d+_", "'_N_", text)


def test_59_a_queue_keeps_the_order_waits_for_room_and_ends_with_the_texts(seen: Seen) -> None:
    *values, empty, closed = seen("queues_in_order", *QUEUE_OPS, *BATCH_OPS)
    assert values == [
        ["waits for room", True, 3],
        [[0.0, 0.0], "s0"],
        [[[1.0, 1.0], [1.0, 1.0]], ["s1", "m0"]],
        1,
        [[[1.0, 1.0]], ["m1"]],
    ]
    assert {**empty, "message": without_number(empty["message"])} == from_task(
        11,
        "FIFOQueue '_N_q' is closed and has insufficient elements (requested 1, current size 0)"
        "\n\t [[{{node q_Dequeue}}]]",
    )
    assert {**closed, "message": without_number(closed["message"])} == from_task(
        1, "FIFOQueue '_N_q' is closed.\n\t [[{{node q_enqueue}}]]"
    )


def test_59_closing_a_queue_ends_what_waits(seen: Seen) -> None:
    answer = seen("closing_a_queue_ends_what_waits", *QUEUE_OPS)
    answer = {**answer, "dequeue": {**answer["dequeue"], "message": without_number(answer["dequeue"]["message"])}}
    assert answer == {
        "dequeue": from_task(
            11,
            "FIFOQueue '_N_q' is closed and has insufficient elements (requested 1, current size 0)"
            "\n\t [[{{node q_Dequeue}}]]",
        ),
        "enqueue": from_task(1, "Enqueue operation was cancelled\n\t [[{{node q_enqueue}}]]"),
        "kept": 1,
    }


def test_59_waiters_are_served_in_the_order_in_which_they_came(seen: Seen) -> None:
    assert seen("waiters_are_served_in_order", *QUEUE_OPS, *BATCH_OPS) == [[0, 1, 2, 3, 4], 2]


def test_59_queues_of_other_kinds(seen: Seen) -> None:
    assert seen(
        "other_queues", *QUEUE_OPS, *BATCH_OPS, "RandomShuffleQueueV2", "PriorityQueueV2", "PaddingFIFOQueueV2"
    ) == {
        "shuffle": list(range(10)),
        "priority": [[1, "a"], [2, "b"], [3, "c"]],
        "padding": [[1, 0], [2, 3]],
    }


def test_61_a_failing_kernel_ends_a_step_that_waits_elsewhere(seen: Seen) -> None:
    assert seen("first_error_wins", *QUEUE_OPS) == {
        "error": from_task(
            3, "Input to reshape is a tensor with 1 values, but the requested shape has 7\n\t [[{{node bad}}]]"
        ),
        "soon": True,
    }


@pytest.mark.parametrize("form", FORMS)
def test_an_endless_loop_ends_at_its_timeout(answers: Answers, form: str) -> None:
    assert answers("ours", "endless_loop_and_its_timeout")[form] == {"code": 4, "in time": True, "after": 1.0}


def test_lookup_tables(seen: Seen) -> None:
    needed = ("HashTableV2", "LookupTableFindV2", "LookupTableImportV2", "LookupTableSizeV2")
    assert seen("lookup_tables", *needed) == [9, [[2, -1, 1], 2]]


def test_a_failed_assertion_shows_its_data(seen: Seen) -> None:
    passed, failed = seen("assert_and_print")
    assert passed == 1.0
    assert failed["code"] == 3
    text, _, node = failed["message"].rpartition("\n\t ")
    assert text == f"{FROM}assertion failed: [not positive] [-1]"
    # TensorFlow names the function that the branch became, by a number of its own; we name the path to the node.
    assert re.fullmatch(r"\[\[(\{\{function_node \w+\}\})?\{\{node [\w/]*Assert\}\}\]\]", node)
