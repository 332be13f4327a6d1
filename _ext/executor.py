"""The executors of a compiled step, under one name: the modules behind it are an arrangement of files."""

from __future__ import annotations

from runtime._ext.dataflow import Dataflow, DataflowRun
from runtime._ext.dead_values import DEAD_VALUE, DeadFetch
from runtime._ext.frame_loops import FrameLoop
from runtime._ext.invoke import BoundKernel, name_error
from runtime._ext.predicates import truth
from runtime._ext.program import Program, run_while
from runtime._ext.step_context import StepContext, StepTrace

__all__ = [
    "DEAD_VALUE",
    "BoundKernel",
    "Dataflow",
    "DataflowRun",
    "DeadFetch",
    "FrameLoop",
    "Program",
    "StepContext",
    "StepTrace",
    "name_error",
    "run_while",
    "truth",
]
