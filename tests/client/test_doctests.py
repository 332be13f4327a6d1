"""The examples in docstrings."""

from __future__ import annotations

import doctest
import importlib

import pytest


@pytest.mark.parametrize("module", ["runtime.client.session", "runtime.graph.builder", "runtime.graph.initializers",
                                    "runtime.graph.optimizers", "runtime.graph.training_methods",
                                    "runtime.local_cluster.cluster"])
def test_examples_run(module: str) -> None:
    found = doctest.testmod(importlib.import_module(module))
    assert found.attempted > 0
    assert found.failed == 0
