"""Cases of the optimizers: several steps on reference and on resource variables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from runtime.dtypes import from_numpy
from runtime.ops.optimizers import DENSE, SPARSE, Formula
from tests.ops.case import COMPLEX, FLOATS, Case, Run, bf16, graph_case, node
from tests.ops.cases.variables import fed, feeds, reference, resource, set_up
from tests.ops.values import values

SCALARS = {"alpha": 0.5, "lr": 0.125, "momentum": 0.75, "rho": 0.875, "beta1": 0.75, "beta2": 0.875, "epsilon": 0.0625,
           "beta1_power": 0.75, "beta2_power": 0.875, "l1": 0.125, "l2": 0.25, "l2_shrinkage": 0.0625, "lr_power": -0.5,
           "sign_decay": 0.5, "logbase": 0.75, "beta": 0.875}
"""Hyperparameters that the small types hold exactly."""

STEPS = 3
EVERYDAY = ("GradientDescent", "Momentum", "KerasMomentum", "Adam", "Adagrad", "RMSProp")
"""Those that are tested in more shapes than the others."""

WITH_COMPLEX = ("GradientDescent", "Momentum", "Adagrad", "Adam", "RMSProp", "Adadelta", "CenteredRMSProp")
REGULARIZED = ("ProximalGradientDescent", "ProximalAdagrad", "AdagradDA")
"""Those that TensorFlow has for float and double alone."""

WITHOUT_BFLOAT16 = ("AdaMax", "Sparse CenteredRMSProp", "Sparse RMSProp")

CHANGED: dict[str, tuple[dict[str, float], ...]] = {
    **dict.fromkeys(("ProximalGradientDescent", "ProximalAdagrad", "AdagradDA"), ({"l1": 0.0}, {"l2": 0.0})),
    **dict.fromkeys(("Ftrl", "FtrlV2"), ({"l1": 0.0}, {"lr_power": -0.75}, {"lr_power": 0.0}, {"l2_shrinkage": 0.0})),
}
"""Other hyperparameters, with which a formula takes another way."""

REFUSED = {"lr": 0.0, "l1": -1.0, "l2": -1.0, "l2_shrinkage": -1.0, "lr_power": 1.0, "alpha": 0.0}
"""Values that some optimizers do not take."""


def cases() -> Iterator[Case]:
    """Yield the cases."""
    for name, formula in DENSE.items():
        for kind in (*_kinds(name, name), *(COMPLEX if name in WITH_COMPLEX else ())):
            for shape in ((), (3, 4)) if kind is np.float32 else ((3, 4),):
                yield from _dense(name, formula, kind, shape)
        for changed in CHANGED.get(name, ()):
            yield from _dense(name, formula, np.float32, (3, 4), **changed)
        yield from _dense(name, formula, np.float32, (0, 3))
    for name, formula in SPARSE.items():
        for kind in _kinds(name, f"Sparse {name}"):
            yield from _sparse(name, formula, kind, every=name in EVERYDAY)
        for changed in CHANGED.get(name, ()):
            yield from _sparse(name, formula, np.float32, every=False, **changed)
    yield from _wrong_dense()
    yield from _wrong_sparse()
    yield from _refused()


def _kinds(name: str, entry: str) -> tuple[Any, ...]:
    if name in REGULARIZED:
        return (np.float32, np.float64)
    return tuple(kind for kind in FLOATS if kind is not bf16 or entry not in WITHOUT_BFLOAT16)


def tolerance(kind: Any) -> dict[str, Any]:
    """Return a tolerance for a few steps, each rounded in its own order."""
    return {"relative": {np.float16: 1e-2, bf16: 6e-2, np.float32: 1e-5, np.complex64: 1e-5}.get(kind, 1e-11),
            "absolute": {np.float16: 4e-3, bf16: 3e-2, np.float32: 1e-6, np.complex64: 2e-6}.get(kind, 1e-12)}


def options(formula: Formula) -> list[dict[str, bool]]:
    """Return every setting of the attrs."""
    return [{attr: value} for attr in formula.attrs for value in (False, True)] or [{}]


def _slot(kind: Any, shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Return a slot: its values are averages of squares and roots are taken of them, so they are not negative."""
    found = values(kind, shape, seed)
    return np.asarray(np.abs(found).astype(kind) + np.ones((), kind))


def _inputs(formula: Formula, kind: Any, special: Mapping[str, np.ndarray],
            changed: Mapping[str, float] | None = None) -> dict[str, np.ndarray]:
    scalars = {name: np.array(value, kind) for name, value in {**SCALARS, **(changed or {})}.items()}
    scalars["global_step"] = np.array(3, np.int64)
    return {name: special[name] if name in special else scalars[name] for name in formula.inputs}


def _forms(name: str, formula: Formula) -> Iterator[tuple[str, bool]]:
    """Yield the op types of an optimizer and whether they take references."""
    if formula.by_reference:
        yield f"Apply{name}", True
    yield f"ResourceApply{name}", False


def _history(op: str, label: str, formula: Formula, start: Mapping[str, np.ndarray], inputs: Mapping[str, np.ndarray],
             settings: Mapping[str, Any], by_reference: bool, steps: int = STEPS) -> Case:
    kind = start[formula.slots[0]].dtype
    make = reference if by_reference else resource
    nodes = [part for name in formula.slots for part in make(name, start[name], shape=start[name].shape)]
    attrs: dict[str, Any] = {"T": from_numpy(kind), **settings}
    if "indices" in inputs:
        attrs["Tindices"] = from_numpy(inputs["indices"].dtype)
    nodes += [*fed(**inputs), node(op, "op", [*formula.slots, *inputs], **attrs)]
    step = Run(feeds(**inputs), ["op:0"]) if by_reference else Run(feeds(**inputs), [], ["op"])
    suffix = ":0" if by_reference else "_read:0"
    read = [] if steps == 1 else [Run({}, [f"{name}{suffix}" for name in formula.slots])]
    return graph_case(op, label, nodes, set_up(**start), *([step] * steps), *read, **tolerance(kind.type))


def _dense(name: str, formula: Formula, kind: Any, shape: tuple[int, ...], **changed: float) -> Iterator[Case]:
    start = {slot: values(kind, shape, 1) if slot == "var" else _slot(kind, shape, 2) for slot in formula.slots}
    gradient = values(kind, shape, 9)
    for settings in options(formula):
        inputs = _inputs(formula, kind, {"grad": gradient, "delta": gradient}, changed)
        label = f"{np.dtype(kind).name}{list(shape)} {settings or ''}{changed or ''}"
        for op, by_reference in _forms(name, formula):
            yield _history(op, label, formula, start, inputs, settings, by_reference)


def _sparse(name: str, formula: Formula, kind: Any, every: bool, **changed: float) -> Iterator[Case]:
    rows = {"some": [3, 0, 4], "repeated": [1, 1, 2, 1], "none": []}
    for label, indices in rows.items() if every else [("repeated", [2, 1, 1, 4, 1])]:
        index = np.array(indices, np.int64 if label == "some" else np.int32)
        for shape in ((6,), (6, 3)) if every or kind is np.float32 else ((6, 3),):
            start = {slot: values(kind, shape, 1) if slot == "var" else _slot(kind, shape, 2)
                     for slot in formula.slots}
            gradient = values(kind, (index.size, *shape[1:]), 9)
            for settings in options(formula):
                inputs = _inputs(formula, kind, {"grad": gradient, "indices": index}, changed)
                text = f"{np.dtype(kind).name}{list(shape)} {label} {settings or ''}{changed or ''}"
                for op, by_reference in _forms(name, formula):
                    op = op.replace("Apply", "SparseApply")
                    yield _history(op, text, formula, start, inputs, settings, by_reference)


def _wrong_dense() -> Iterator[Case]:
    two, three = np.ones(2, np.float32), np.ones(3, np.float32)
    for name, formula in DENSE.items():
        gradient = "delta" if "delta" in formula.inputs else "grad"
        start = dict.fromkeys(formula.slots, two)
        op = f"ResourceApply{name}"
        good = _inputs(formula, np.float32, {gradient: two})
        yield _history(op, "gradient of another shape", formula, start, {**good, gradient: three}, {}, False, 1)
        for scalar in formula.inputs:
            if scalar not in (gradient, "sign_decay"):  # TensorFlow does not look at the shape of sign_decay
                wide = two.astype(good[scalar].dtype)
                yield _history(op, f"{scalar} no scalar", formula, start, {**good, scalar: wide}, {}, False, 1)
        unset = _history(op, "unset", formula, start, good, {}, False, 1)
        yield graph_case(op, "unset", unset.nodes, *unset.runs[1:], text=False)
        if formula.by_reference:
            unset = _history(f"Apply{name}", "unset", formula, start, good, {}, True, 1)
            yield graph_case(f"Apply{name}", "unset", unset.nodes, *unset.runs[1:])


def _wrong_sparse() -> Iterator[Case]:
    start = np.ones((4, 2), np.float32)
    index = np.array([1, 2], np.int32)
    wrong = {"index too large": (index * 3, (2, 2)), "index negative": (index - 2, (2, 2)),
             "rows of another width": (index, (2, 3)), "too few rows": (index, (1, 2)),
             "indices no vector": (index.reshape(1, 2), (2, 2))}
    for name, formula in SPARSE.items():
        for label, (indices, shape) in wrong.items():
            inputs = _inputs(formula, np.float32, {"grad": np.ones(shape, np.float32), "indices": indices})
            slots = dict.fromkeys(formula.slots, start)
            yield _history(f"ResourceSparseApply{name}", label, formula, slots, inputs, {}, False, 1)


def _refused() -> Iterator[Case]:
    """Yield hyperparameters out of range, which some optimizers take and others do not."""
    start, index = np.ones((4, 2), np.float32), np.array([1, 2], np.int32)
    for sparse, table in enumerate((DENSE, SPARSE)):
        for name, formula in table.items():
            slots = dict.fromkeys(formula.slots, start)
            op = "ResourceSparseApply" if sparse else "ResourceApply"
            for scalar, value in REFUSED.items():
                if scalar in formula.inputs and name not in EVERYDAY:
                    grad = start[:2] if sparse else start
                    inputs = _inputs(formula, np.float32, {"grad": grad, "delta": grad, "indices": index},
                                     {scalar: value})
                    yield _history(f"{op}{name}", f"{scalar}={value}", formula, slots, inputs, {}, False, 1)
