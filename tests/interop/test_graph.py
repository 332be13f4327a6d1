"""Checklist 24 to 35 with TensorFlow's client: feeds, fetches, pruning, placement."""

from __future__ import annotations

import pytest

from tests.interop.programs import CPU, FROM, Answers, Seen, from_task

PROGRAM = "graph_tf"


def test_25_fetches_of_every_form_come_back_in_that_form(seen: Seen) -> None:
    assert seen("fetches_of_every_form") == {
        "name": [2.0, 4.0],
        "dict": {"a": [2.0, 4.0], "b": [[2.0, 4.0], [2.0, 4.0]]},
        "operation": [[2.0, 4.0], None],
        "twice": [[2.0, 4.0], [2.0, 4.0]],
        "sparse": [[[0, 1]], [1.0], [2, 2]],
        "fed": [[1.0, 2.0], [2.0, 4.0]],
        "empty": [],
    }


def test_26_a_constant_or_an_intermediate_may_be_fed(seen: Seen) -> None:
    assert seen("feed_of_a_constant") == [-1.0, -5.0, -6.0, -1.0]


def test_26_a_variable_may_be_fed_before_it_has_a_value(seen: Seen) -> None:
    assert seen("feed_of_a_variable") == [20.0, 6.0]


def test_26_feeds_of_every_python_form(seen: Seen) -> None:
    assert seen("feed_of_every_python_form") == [
        [1.0, 2, "text", True],
        [[[1.0, 2.0], [3.0, 4.0]], [0, 1, 2], ["\xff\x00", "\u00e9".encode().decode("latin-1")], [True, False]],
        [[], [[0, 3], [1, 4], [2, 5]], [["", "x"]], []],
    ]


def test_27_control_successors_of_a_fed_placeholder_run(seen: Seen) -> None:
    assert seen("control_successor_of_a_fed_placeholder") == {
        "fed": 4.0,
        "unfed": from_task(3, "You must feed a value for placeholder tensor 'x' with dtype float\n\t [[{{node x}}]]"),
    }


def test_28_only_what_is_needed_runs(seen: Seen) -> None:
    assert seen("only_what_is_needed_runs") == {
        "seen": [[1.0, 2.0], 1.0],
        "bad": from_task(
            3, "Input to reshape is a tensor with 2 values, but the requested shape has 7\n\t [[{{node bad}}]]"
        ),
        "bump": 2.0,
    }


@pytest.mark.parametrize(
    ("shape", "text"), [("None", ""), ("[]", ""), ("[None]", " and shape [?]"), ("[None, 3]", " and shape [?,3]")]
)
def test_30_an_unfed_placeholder_gives_its_dtype_and_shape(seen: Seen, shape: str, text: str) -> None:
    assert seen("unfed_placeholders")[shape] == from_task(
        3, f"You must feed a value for placeholder tensor 'x' with dtype int32{text}\n\t [[{{{{node x}}}}]]"
    )


def test_31_a_device_that_is_not_there_fails_the_session_with_those_that_are(seen: Seen) -> None:
    error = {
        "code": 3,
        "message": "Cannot assign a device for operation a: {{node a}} was explicitly assigned to /job:nope/task:3 but "
        f"available devices are [ {CPU} ]. Make sure the device specification refers to a valid device.\n\t [[a]]",
    }
    assert seen("device_that_is_not_there") == {
        "created": error,
        "first": 1.0,
        "extended": error,
        "again": error,
        "soft": error,
    }


def test_32_a_gpu_request_moves_to_the_cpu_only_with_soft_placement(seen: Seen) -> None:
    answer = seen("gpu_request")
    assert (answer["soft"], answer["places"]) == (3.0, [CPU])
    assert answer["hard"]["code"] == 3
    # Which of the three nodes it names is the server's business.
    start, _, rest = answer["hard"]["message"].partition(": ")
    assert start in {f"Cannot assign a device for operation {name}" for name in ("a", "b", "add")}
    name = start.split()[-1]
    assert rest == (
        f"{{{{node {name}}}}} was explicitly assigned to /device:GPU:0 but available devices are [ {CPU} ]. Make sure "
        "the device specification refers to a valid device. The requested device appears to be a GPU, but CUDA is not "
        f"enabled.\n\t [[{name}]]"
    )


def test_33_assign_goes_where_its_variable_is(seen: Seen) -> None:
    assert seen("colocation_with_a_variable") == {"value": 5.0, "places": [CPU], "class": ["loc:@colocated"]}


def test_34_unplaced_nodes_land_on_the_own_task(seen: Seen) -> None:
    assert seen("places_of_unplaced_nodes") == [CPU]


def test_35_stateful_nodes_stay_over_an_extension(seen: Seen) -> None:
    assert seen("stateful_nodes_stay_over_an_extension") == [[2.0, 3.0], [3.0, 4.0]]


def test_a_graph_without_default_attrs_from_an_old_producer_runs(seen: Seen) -> None:
    assert seen("graph_from_elsewhere") == [[[4.0, 5.0], [0.0, 9.0]], None]


def test_a_graph_that_grows_between_runs(seen: Seen) -> None:
    assert seen("growing_graph") == [float(sum(range(number + 1))) for number in range(20)]


def test_a_python_function_of_the_client_cannot_be_called(answers: Answers) -> None:
    theirs, ours = answers("tensorflow", "unknown_op"), answers("ours", "unknown_op")
    assert theirs["code"] == 3
    assert theirs["message"].startswith(f"{FROM}ValueError: Could not find callback with key=pyfunc_")
    assert ours["code"] in (3, 5)
    assert "PyFunc" in ours["message"] or ours["message"].startswith(f"{FROM}ValueError: Could not find callback with")
    assert ours["message"].endswith("\n\t [[{{node mine}}]]")
