"""Train an LSTM that reads handwritten digits row by row, in a dynamic loop, by a TensorFlow client.

    python examples/lstm_tf.py grpc://HOST:PORT [--data FILE.npz]

The server may be this project's or TensorFlow's own. How many rows there are is known only when a step runs: the loop
and its gradient are a ``while_loop`` over TensorArrays. Prints one JSON object a line: for each step its number and
loss, at the end the test accuracy.
"""

from __future__ import annotations

import argparse
import json
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import digits_data
import numpy as np
import tensorflow.compat.v1 as tf

NAME = "lstm"
ROW = 8


def lstm(rows, units):
    """Read rows (steps, batch, features) one after the other and return the last output (batch, units)."""
    steps, batch = tf.shape(rows)[0], tf.shape(rows)[1]
    width = int(rows.shape[-1])
    kernel = tf.get_variable("kernel", [width + units, 4 * units])
    # The gate that forgets begins open.
    bias = tf.get_variable("bias", initializer=np.repeat([0, 0, 1, 0], units).astype("f4"))
    inputs = tf.TensorArray(tf.float32, size=steps).unstack(rows)

    def read_row(step, cell, output):
        gates = tf.matmul(tf.concat([inputs.read(step), output], axis=1), kernel) + bias
        enter, candidate, keep, leave = tf.split(gates, 4, axis=1)
        cell = tf.sigmoid(keep) * cell + tf.sigmoid(enter) * tf.tanh(candidate)
        return step + 1, cell, tf.sigmoid(leave) * tf.tanh(cell)

    nothing = tf.zeros([batch, units])
    shapes = [tf.TensorShape([]), tf.TensorShape([None, units]), tf.TensorShape([None, units])]
    _, _, last = tf.while_loop(lambda step, cell, output: step < steps, read_row, [0, nothing, nothing], shapes)
    return last


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("target", help="grpc://HOST:PORT")
    parser.add_argument("--data", help=".npz file with images and labels; scikit-learn's digits when not given")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch", type=int, default=32, help="images per step")
    parser.add_argument("--units", type=int, default=64)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()

    digits = digits_data.load(options.data, options.seed)
    rng = np.random.default_rng(options.seed)
    tf.disable_v2_behavior()
    tf.set_random_seed(options.seed)
    images = tf.placeholder(tf.float32, [None, digits_data.NUM_PIXELS], name="images")
    labels = tf.placeholder(tf.int64, [None], name="labels")
    with tf.variable_scope(NAME):
        last = lstm(tf.transpose(tf.reshape(images, [-1, digits_data.NUM_PIXELS // ROW, ROW]), [1, 0, 2]),
                    options.units)
        logits = tf.matmul(last, tf.get_variable("classes", [options.units, digits_data.NUM_CLASSES]))
    loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits))
    accuracy = tf.reduce_mean(tf.cast(tf.equal(tf.argmax(logits, axis=1), labels), tf.float32))
    optimizer = tf.train.AdamOptimizer(0.005)
    gradients, variables = zip(*optimizer.compute_gradients(loss))
    clipped, _ = tf.clip_by_global_norm(gradients, 1.0)
    train = optimizer.apply_gradients(zip(clipped, variables))

    with tf.Session(options.target) as session:
        session.run(tf.global_variables_initializer())
        step = 0
        for _ in range(options.epochs):
            for some, their in digits_data.batches(digits.train_images, digits.train_labels, options.batch, rng):
                found, _ = session.run([loss, train], {images: some, labels: their})
                print(json.dumps({"step": step, "loss": float(found)}), flush=True)
                step += 1
        found = session.run(accuracy, {images: digits.test_images, labels: digits.test_labels})
    print(json.dumps({"test_accuracy": float(found), "steps": step}))


if __name__ == "__main__":
    main()
