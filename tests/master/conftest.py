"""Fixtures of the master's tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.master.harness import Caller, serving


@pytest.fixture
def master() -> Iterator[Caller]:
    """A MasterService of its own, without a network."""
    with serving() as caller:
        yield caller
