"""Kernels and static shapes of ops, checked against TensorFlow's own kernels.

A case is one small graph that both sides run: usually one op fed by placeholders (`case.op_case`), else several
nodes (`case.graph_case`), with functions where they are called; `pipeline.Pipeline` makes those of datasets. What only
an executor can run, which is functions and control flow, is checked in steps alone. A module in ``tests/ops/cases``
holds the cases of a family in a function ``cases()``; ``test_against_tensorflow.py`` finds the modules by itself. A new
op is one entry there; one that TensorFlow cannot judge is a line in ``ops_left_out.txt``.

What is checked for every case: the values (per dtype tolerance, or exactly the same error code and, unless the case
says otherwise, the same text), the dtype, that inputs are left alone, that the same comes out when host inputs are
known at compile time, and that the static shape function never contradicts the shape that came out, whatever part of
the input shapes it is told.

``TENSOR_RUNTIME_OP_CASES=Add,MatMul`` narrows a run to the ops named.
"""
