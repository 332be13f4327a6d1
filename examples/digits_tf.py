"""Train the digit classifier with an unmodified TensorFlow client, in graph mode, on a server.

    python examples/digits_tf.py grpc://HOST:PORT [--data FILE.npz]

The server may be this project's or TensorFlow's own: nothing here depends on which. Initial weights and batches are
drawn here and fed as data, so that every server computes the same. Prints one JSON object a line: for each step its
number and loss, at the end the test accuracy and the steps per second.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import digits_data
import numpy as np

try:
    import tensorflow.compat.v1 as tf
except ImportError as missing:
    sys.exit(f"This example is a TensorFlow client, and TensorFlow is not here ({missing}).\n"
             "Install it with:  pip install tensorflow-cpu\nor run examples/digits.py, which needs none.")


def build(sizes: list[int], learning_rate: float) -> dict[str, object]:
    """Build network, loss and training step in the default graph; return what is fed and fetched by name."""
    images = tf.placeholder(tf.float32, [None, sizes[0]], name="images")
    labels = tf.placeholder(tf.int64, [None], name="labels")
    given = []
    value = images
    for number, (width_in, width_out) in enumerate(zip(sizes, sizes[1:])):
        with tf.variable_scope(f"layer{number}", use_resource=True):
            kernel_value = tf.placeholder(tf.float32, [width_in, width_out], name="initial_kernel")
            bias_value = tf.placeholder(tf.float32, [width_out], name="initial_bias")
            kernel = tf.get_variable("kernel", initializer=kernel_value)
            bias = tf.get_variable("bias", initializer=bias_value)
        given.append((kernel_value, bias_value))
        value = tf.nn.bias_add(tf.matmul(value, kernel), bias)
        if number < len(sizes) - 2:
            value = tf.nn.relu(value)
    loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=value))
    is_right = tf.equal(tf.argmax(value, axis=1), labels)
    return {
        "images": images, "labels": labels, "given": given, "loss": loss,
        "accuracy": tf.reduce_mean(tf.cast(is_right, tf.float32)),
        "train": tf.train.AdamOptimizer(learning_rate).minimize(loss),
        "initialize": tf.global_variables_initializer(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("target", help="grpc://HOST:PORT")
    parser.add_argument("--data", help=".npz file with images and labels; scikit-learn's digits when not given")
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--batch", type=int, default=32, help="images per step")
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--learning-rate", type=float, default=0.002)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()

    digits = digits_data.load(options.data, options.seed)
    rng = np.random.default_rng(options.seed)
    sizes = [digits_data.NUM_PIXELS, options.hidden, digits_data.NUM_CLASSES]
    weights = digits_data.initial_weights(sizes, rng)
    # TensorFlow 2's own switch for programs that build graphs and run them in sessions.
    tf.disable_eager_execution()
    model = build(sizes, options.learning_rate)
    with tf.Session(options.target) as session:
        feeds = {}
        for places, values in zip(model["given"], weights):
            feeds.update(zip(places, values))
        session.run(model["initialize"], feeds)
        started = time.perf_counter()
        step = 0
        for _ in range(options.epochs):
            for images, labels in digits_data.batches(digits.train_images, digits.train_labels, options.batch, rng):
                loss, _ = session.run([model["loss"], model["train"]],
                                      {model["images"]: images, model["labels"]: labels})
                print(json.dumps({"step": step, "loss": float(loss)}), flush=True)
                step += 1
        seconds = time.perf_counter() - started
        accuracy = session.run(model["accuracy"], {model["images"]: digits.test_images,
                                                   model["labels"]: digits.test_labels})
    print(json.dumps({"test_accuracy": float(accuracy), "steps": step, "steps_per_s": round(step / seconds, 1)}))


if __name__ == "__main__":
    main()
