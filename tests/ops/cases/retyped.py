"""Cases of the other tables with the types that they do not write down."""

from __future__ import annotations

from collections.abc import Iterator

from tests.ops.case import Case


def cases() -> Iterator[Case]:
    """Yield the cases."""
    from tests.ops.retyping import retyped_cases  # which reads the other tables

    yield from retyped_cases()
