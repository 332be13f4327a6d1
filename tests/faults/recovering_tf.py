"""Train with TensorFlow's ``MonitoredTrainingSession``, which restores from its checkpoint when a task is lost.

Run in the peer interpreter: ``recovering_tf.py TARGET FOLDER``. Every step adds its own number to a sum on the
parameter server, by way of the worker. Prints one JSON object a line: ``{"opened": N, "begins_at": STEP}`` for the N-th
session, and the step and the sum after each step. Ends after the first step that finds a file ``enough`` in the folder.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import tensorflow.compat.v1 as tf

CHECKPOINT_STEPS = 5


class Opened(tf.train.SessionRunHook):  # type: ignore[misc]
    """Tells of every session that is opened, the first one and those after a loss."""

    def __init__(self, global_step: Any) -> None:
        self.count = 0
        self._global_step = global_step

    def after_create_session(self, session: Any, coord: Any) -> None:
        self.count += 1
        say(opened=self.count, begins_at=int(session.run(self._global_step)))


def say(**values: Any) -> None:
    print(json.dumps(values), flush=True)


def main() -> None:
    target, folder = sys.argv[1], Path(sys.argv[2])
    tf.disable_eager_execution()
    with tf.Graph().as_default():
        with tf.device("/job:ps/task:0"):
            global_step = tf.train.get_or_create_global_step()
            total = tf.get_variable("total", [], tf.int64, tf.zeros_initializer(), use_resource=True)
        with tf.device("/job:worker/task:0"):
            number = tf.identity(global_step) + 1
        with tf.device("/job:ps/task:0"), tf.control_dependencies([total.assign_add(number)]):
            train = tf.identity(tf.assign_add(global_step, 1))
        with tf.control_dependencies([train]):
            after = total.read_value()
        with tf.train.MonitoredTrainingSession(
                target, checkpoint_dir=str(folder / "checkpoints"), hooks=[Opened(global_step)],
                save_checkpoint_secs=None, save_checkpoint_steps=CHECKPOINT_STEPS, save_summaries_steps=None,
                save_summaries_secs=None, log_step_count_steps=None, stop_grace_period_secs=1) as session:
            while not (folder / "enough").exists():
                step, found = (int(value) for value in session.run([train, after]))
                say(step=step, sum=found)
                time.sleep(0.005)


if __name__ == "__main__":
    main()
