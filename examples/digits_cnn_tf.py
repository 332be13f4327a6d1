"""Train a convolutional network on handwritten digits, with batch norm and dropout, by a TensorFlow client.

    python examples/digits_cnn_tf.py grpc://HOST:PORT [--data FILE.npz]

The server may be this project's or TensorFlow's own. The graph's seed decides weights and dropout, so both compute the
same. Prints one JSON object a line: for each step its number and loss, at the end the test accuracy.
"""

from __future__ import annotations

import argparse
import json
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import digits_data
import numpy as np
import tensorflow.compat.v1 as tf

NAME = "digits_cnn"
DECAY = 0.9


def convolution(value, channels, name):
    """A 3x3 convolution."""
    with tf.variable_scope(name):
        kernel = tf.get_variable("kernel", [3, 3, int(value.shape[-1]), channels])
    return tf.nn.conv2d(value, kernel, strides=1, padding="SAME")


def batch_norm(value, name, training):
    """Normalise by the batch when training, by moving averages otherwise."""
    width = int(value.shape[-1])
    with tf.variable_scope(name):
        scale = tf.get_variable("scale", initializer=tf.ones([width]))
        offset = tf.get_variable("offset", initializer=tf.zeros([width]))
        mean = tf.get_variable("mean", initializer=tf.zeros([width]), trainable=False)
        variance = tf.get_variable("variance", initializer=tf.ones([width]), trainable=False)
    if not training:
        return tf.nn.fused_batch_norm(value, scale, offset, mean, variance, is_training=False)[0]
    value, batch_mean, batch_variance = tf.nn.fused_batch_norm(value, scale, offset)
    for average, found in ((mean, batch_mean), (variance, batch_variance)):
        tf.add_to_collection(tf.GraphKeys.UPDATE_OPS, tf.assign_sub(average, (1 - DECAY) * (average - found)))
    return value


def network(images, training):
    """Two blocks of convolution, batch norm, ReLU and pooling, then dropout and a dense layer: logits."""
    value = tf.reshape(images, [-1, 8, 8, 1])
    for number, channels in enumerate((16, 32)):
        value = convolution(value, channels, f"convolution{number}")
        value = tf.nn.relu(batch_norm(value, f"norm{number}", training))
        value = tf.nn.max_pool2d(value, 2, 2, "VALID")
    value = tf.reshape(value, [-1, 2 * 2 * 32])
    if training:
        value = tf.nn.dropout(value, rate=0.25)
    kernel = tf.get_variable("kernel", [2 * 2 * 32, digits_data.NUM_CLASSES])
    bias = tf.get_variable("bias", initializer=tf.zeros([digits_data.NUM_CLASSES]))
    return tf.matmul(value, kernel) + bias


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("target", help="grpc://HOST:PORT")
    parser.add_argument("--data", help=".npz file with images and labels; scikit-learn's digits when not given")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch", type=int, default=32, help="images per step")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()

    digits = digits_data.load(options.data, options.seed)
    rng = np.random.default_rng(options.seed)
    tf.disable_v2_behavior()
    tf.set_random_seed(options.seed)
    images = tf.placeholder(tf.float32, [None, digits_data.NUM_PIXELS], name="images")
    labels = tf.placeholder(tf.int64, [None], name="labels")
    with tf.variable_scope(NAME):
        logits = network(images, training=True)
    with tf.variable_scope(NAME, reuse=True):
        tested = network(images, training=False)
    loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits))
    accuracy = tf.reduce_mean(tf.cast(tf.equal(tf.argmax(tested, axis=1), labels), tf.float32))
    with tf.control_dependencies(tf.get_collection(tf.GraphKeys.UPDATE_OPS)):
        train = tf.train.AdamOptimizer(0.002).minimize(loss)

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
