"""Loops that TensorFlow's client builds give the numbers that TensorFlow's own server gives."""

from __future__ import annotations

from typing import Any

import pytest

from tests.interop.programs import Seen

PROGRAM = "loops_tf"
FORMS = ("v1", "v2")


def about(expected: Any) -> Any:
    """Return nested lists of numbers that are equal within float32's rounding."""
    if isinstance(expected, list):
        return [about(item) for item in expected]
    return pytest.approx(expected, rel=2e-5, abs=2e-6) if isinstance(expected, float) else expected


@pytest.mark.parametrize("program", [
    "counting", "shapes_that_grow", "nested_loops", "conditional_in_a_loop", "loop_in_a_conditional",
    "gradient_of_a_loop", "second_derivative_of_a_loop", "gradient_of_nested_loops",
    "gradient_of_a_conditional_in_a_loop", "gradient_of_a_choice_in_a_loop", "tensor_arrays", "arrays_of_uneven_parts",
    "higher_order_functions", "variables_in_a_loop", "recurrent_cells", "training_through_a_loop",
])
def test_a_program_of_loops_gives_the_same_numbers(both: Seen, program: str) -> None:
    ours, theirs = both(program)
    assert ours["v1"] == about(theirs["v1"])
    assert ours["v2"] == about(theirs["v2"])
    assert ours["v1"] == about(ours["v2"]), "both forms mean the same program"


@pytest.mark.parametrize("form", FORMS)
def test_a_failing_iteration_ends_the_loop(seen: Seen, form: str) -> None:
    code, text, after = seen("a_failing_iteration")[form]
    assert code == 3
    assert text == "Input to reshape is a tensor with 6 values, but the requested shape requires a multiple of 4"
    assert after == [[0.0, 0.0]] * 3
