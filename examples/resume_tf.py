"""Train, stop, and go on where the last run ended, by checkpoints, with a TensorFlow client.

    python examples/resume_tf.py grpc://HOST:PORT --folder DIR --until 40
    python examples/resume_tf.py grpc://HOST:PORT --folder DIR --until 80

The server may be this project's or TensorFlow's own, and another one the second time: the files are the same. The
server writes them, so the folder must be one that it may use and that this program sees, too. Prints one JSON object a
line: for each step its number and loss.
"""

from __future__ import annotations

import argparse
import json
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import tensorflow.compat.v1 as tf

NAME = "resume"


def wave(step, batch=64):
    """Return points and a noisy wave over them; the same for the same step, in whichever run."""
    rng = np.random.default_rng(step)
    x = rng.uniform(-3, 3, (batch, 1)).astype("f4")
    return x, np.sin(2 * x) + rng.normal(0, 0.1, x.shape).astype("f4")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("target", help="grpc://HOST:PORT")
    parser.add_argument("--folder", required=True, help="where the checkpoints are")
    parser.add_argument("--until", type=int, default=200, help="the step to stop at, counted from the very first run")
    parser.add_argument("--save-every", type=int, default=20, metavar="STEPS")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()

    tf.disable_v2_behavior()
    tf.set_random_seed(options.seed)
    x = tf.placeholder(tf.float32, [None, 1], name="x")
    y = tf.placeholder(tf.float32, [None, 1], name="y")
    global_step = tf.train.get_or_create_global_step()
    with tf.variable_scope(NAME):
        hidden = tf.tanh(tf.matmul(x, tf.get_variable("in", [1, 32])) + tf.get_variable("bias", [32]))
        loss = tf.reduce_mean(tf.squared_difference(tf.matmul(hidden, tf.get_variable("out", [32, 1])), y))
        # Rate and momentum of every weight are part of the checkpoint, too.
        train = tf.train.AdamOptimizer(0.01).minimize(loss, global_step)

    hooks = [tf.train.StopAtStepHook(last_step=options.until)]
    with tf.train.MonitoredTrainingSession(options.target, checkpoint_dir=options.folder, hooks=hooks,
                                           save_checkpoint_steps=options.save_every, save_summaries_steps=None,
                                           save_summaries_secs=None, log_step_count_steps=None) as session:
        step = session.run_step_fn(lambda step_context: step_context.session.run(global_step))
        while step < options.until and not session.should_stop():
            some_x, some_y = wave(step)
            found, _ = session.run([loss, train], {x: some_x, y: some_y})
            print(json.dumps({"step": int(step), "loss": float(found)}), flush=True)
            step += 1


if __name__ == "__main__":
    main()
