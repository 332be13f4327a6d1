"""Run a case as a session does: each run is a step, compiled with the kernels that are chosen for it."""

from __future__ import annotations

import re

import numpy as np

from runtime.devices.device import cpu_device
from runtime.errors import Error
from runtime.graph.graph import Graph
from runtime.step.environment import SessionState
from runtime.step.files import FileAccess
from tests.ops.case import Case, Run, graph_def
from tests.step.maker import Runner

_NODE_MARK = re.compile(r"\n\t \[\[\{\{node [^}]*\}\}\]\]")


class CaseInSteps:
    """A session that runs the steps of a case; see `tests.ops.kernel_runner.KernelRunner`, which calls definitions."""

    def __init__(self, case: Case) -> None:
        self._runner = Runner(Graph.from_proto(graph_def(case)))
        self._device = cpu_device("localhost", 0)  # as the peer names its task
        self._runner.state = SessionState(self._device, FileAccess(None))

    def run(self, run: Run) -> list[np.ndarray]:
        """Run a step and return what is fetched; raises the kernel's error, without the node's name."""
        feeds = {}
        for name, value in run.feeds.items():
            feeds[name] = value.view()
            feeds[name].flags.writeable = False
        try:
            # Copied: a later step may change a variable in place.
            return [np.array(value) for value in self._runner.run(list(run.fetches), feeds, list(run.targets))]
        except Error as error:
            error.message = _NODE_MARK.sub("", error.message)
            raise

    def close(self) -> None:
        """Let go of what the case has left behind."""
        self._runner.state.close()
        self._device.resources.clear_all()
