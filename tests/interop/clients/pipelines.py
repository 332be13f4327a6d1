"""What the programs about datasets have in common: reading a pipeline to its end on a server."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow.compat.v1 as tf
from checks import check, failure, plain, session

tf.disable_eager_execution()
tf.autograph.set_verbosity(0)

FILES = os.environ.get("TENSOR_RUNTIME_TEST_FILES") or tempfile.mkdtemp()


def pipelines(table: Callable[[], dict[str, Callable[[], Any]]]) -> None:
    """Register a check that reads some pipelines; the function returns what makes each dataset, by name."""
    made = table()

    def run(target: str) -> Any:
        return {name: read(target, make) for name, make in made.items()}

    run.__name__ = table.__name__
    check(run)


def failure_of(error: tf.errors.OpError) -> dict[str, Any]:
    """Return code and message as the server gave them; see `checks.failure`."""
    cause = error.__context__ if isinstance(error.__context__, tf.errors.OpError) else error
    return {"code": cause.error_code, "message": cause.message}


def read(target: str, make: Callable[[], Any], most: int = 40, after: int = 1) -> list[Any]:
    """Return the elements of a dataset, and the errors on the way, until it has ended."""
    seen: list[Any] = []
    with tf.Graph().as_default() as graph:
        tf.set_random_seed(7)
        iterator = tf.data.make_initializable_iterator(make())
        following = iterator.get_next()
        with session(target, graph) as client:
            try:
                client.run(iterator.initializer)
            except tf.errors.OpError:
                return [failure(client.run, iterator.initializer)]
            while len(seen) < most and after:
                try:
                    seen.append(plain(client.run(following)))
                except tf.errors.OutOfRangeError:
                    after -= 1
                    seen.append("end")
                except tf.errors.OpError as error:
                    seen.append(failure_of(error))
    return seen


def value(number: Any, kind: Any = tf.int64) -> Any:
    """Return a tensor whose value is known only when the graph runs, so that only the server can refuse it."""
    return tf.placeholder_with_default(np.array(number, kind.as_numpy_dtype), None)


def write(name: str, content: bytes) -> str:
    path = os.path.join(FILES, name)
    with open(path, "wb") as file:
        file.write(content)
    return path
