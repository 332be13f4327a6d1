"""Try 200 settings of the digit classifier on two workers; a last task picks the best.

    python examples/parameter_sweep.py                starts a server and two workers of its own

The images are a task's result that all trainings depend on, so that they are stored once. Each training runs a graph
in its worker's process. Ends with status 0 if the best setting recognises at least 93 % of the images that it has not
seen.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import sys
from typing import Any

import digits_data
import numpy as np
from own_workers import server_with_workers

import runtime
from runtime.graph.optimizers import Adam
from runtime.tasks.worker import Task, worker

GOAL = 0.93
EPOCHS = 4
SEEDS, RATES, BATCHES = range(5), np.geomspace(3e-4, 3e-2, 8), (16, 32, 64, 128, 256)


@worker(arrays=True)
def run(task: Task, **arrays: Any) -> dict[str, Any]:
    """Load the images, train with one setting, or pick the best: ``step`` says which."""
    step = arrays["step"].item().decode()
    if step == "load":
        digits = digits_data.load(seed=0)
        return {"images": digits.train_images, "labels": digits.train_labels,
                "test_images": digits.test_images, "test_labels": digits.test_labels}
    if step == "train":
        (data,) = (task.dependency_arrays(key) for key in task.dependencies)
        return {**arrays, "accuracy": np.float64(train(task, data, arrays))}
    found = [task.dependency_arrays(key) for key in task.dependencies]
    return max(found, key=lambda one: float(one["accuracy"]))


@functools.cache
def model() -> tuple[runtime.Session, Any]:
    """Return a session in this process with the model, made once for all tasks of the process."""
    graph = runtime.Graph(seed=1)
    images = graph.placeholder("float32", [None, digits_data.NUM_PIXELS])
    labels = graph.placeholder("int64", [None])
    rate = graph.placeholder("float32", [])
    logits = graph.dense(graph.dense(images, 32, graph.relu), digits_data.NUM_CLASSES)
    loss = graph.reduce_mean(graph.sparse_softmax_cross_entropy(labels, logits))
    is_right = graph.equal(graph.argmax(logits, axis=1), labels)
    accuracy = graph.reduce_mean(graph.cast(is_right, "float32"))
    step = Adam(rate).minimize(loss)
    return runtime.Session(None, graph), (graph.global_variables_initializer(), images, labels, rate, step, accuracy)


def train(task: Task, data: dict[str, Any], setting: dict[str, Any]) -> float:
    """Train from the beginning and return the part of the test images that is recognised."""
    session, (initialize, images, labels, rate, step, accuracy) = model()
    session.run(initialize)
    rng = np.random.default_rng(int(setting["seed"]))
    learning_rate = np.float32(setting["rate"])
    for epoch in range(EPOCHS):
        task.progress(epoch / EPOCHS, f"epoch {epoch + 1} of {EPOCHS}")
        for some, marks in digits_data.batches(data["images"], data["labels"], int(setting["batch"]), rng):
            task.check()
            session.run(step, {images: some, labels: marks, rate: learning_rate})
    return float(session.run(accuracy, {images: data["test_images"], labels: data["test_labels"]}))


def main(arguments: list[str] | None = None) -> int:
    """Sweep and report; return the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--tasks", type=int, default=200, help="settings to try, up to 200 [200]")
    parser.add_argument("--workers", type=int, default=2, help="worker processes [2]")
    options = parser.parse_args(arguments)
    if not 1 <= options.tasks <= 200:
        parser.error(f"--tasks must be from 1 to 200, got {options.tasks}")
    if options.workers < 1:
        parser.error(f"--workers must be at least 1, got {options.workers}")
    settings = [
        {"step": "train", "rate": np.float64(rate), "batch": np.int64(batch), "seed": np.int64(seed)}
        for seed, rate, batch in itertools.product(SEEDS, RATES, BATCHES)
    ][: options.tasks]
    with (
        server_with_workers("parameter_sweep:run", options.workers) as target,
        runtime.TaskClient(target, arrays=True) as client,
        client.session(max_retries=2) as session,
    ):
        data = session.submit({"step": "load"})
        trainings = session.map(settings, dependencies=[data])
        best = session.submit({"step": "best"}, dependencies=trainings)
        session.gather([*trainings, best], progress=True)
        found = best.result()
    accuracy = float(found["accuracy"])
    print(f"best of {len(settings)}: learning rate {float(found['rate']):.4g}, batch {int(found['batch'])}, "
          f"seed {int(found['seed'])}: {accuracy:.3f} recognised (at least {GOAL})")
    return 0 if accuracy >= GOAL else 1


if __name__ == "__main__":
    sys.exit(main())
