"""Equations that are none: TensorFlow refuses these when the graph is made, so there is no case to run."""

from __future__ import annotations

import pytest

from runtime.errors import InvalidArgument
from runtime.ops.einsum import parse_equation


@pytest.mark.parametrize(
    ("equation", "text"),
    [
        ("ab,bc", "Expecting exactly one '->' in einsum equation: ab,bc"),
        ("ab,bc->ac->", "Expecting exactly one '->' in einsum equation: ab,bc->ac->"),
        ("ab,bc,cd->ad", "Expecting 1 or 2 input subscripts in equation 'ab,bc,cd->ad' but got: 3"),
        ("ab,b->x", "Einsum output subscripts for equation 'ab,b->x' has label 'x' which is not present in the input "
                    "subscripts"),
        ("a.b,bc->ac", "Expected at most one ellipsis (...), but found 1 periods (.) in the input subscript: a.b"),
        ("ab,bc->a..c", "Expected at most one ellipsis (...), but found 2 periods (.) in the output subscript: a..c"),
        ("......a->a", "Expected at most one ellipsis (...), but found 6 periods (.) in the input subscript: ......a"),
    ],
)
def test_parse_equation_says_what_is_wrong(equation: str, text: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        parse_equation(equation)
    assert caught.value.message == text


def test_parse_equation_keeps_an_ellipsis_as_one_label() -> None:
    parsed = parse_equation("a...b,bc->...c")
    assert parsed.inputs == (("a", "...", "b"), ("b", "c"))
    assert parsed.output == ("...", "c")
