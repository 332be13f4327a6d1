"""The digits as TFRecord files of Examples, which the server reads itself: written here, parsed in the graph."""

from __future__ import annotations

import os

import digits_data
import tensorflow.compat.v1 as tf


def write(digits: digits_data.Digits, folder: str, shards: int = 4) -> tuple[list[str], list[str]]:
    """Write the digits below a folder and return the paths for training, `shards` of them, and for the test."""
    os.makedirs(folder, exist_ok=True)
    train = [os.path.join(folder, f"train-{number}-of-{shards}.tfrecord") for number in range(shards)]
    for number, path in enumerate(train):
        _write_one(path, digits.train_images[number::shards], digits.train_labels[number::shards])
    test = [os.path.join(folder, "test.tfrecord")]
    _write_one(test[0], digits.test_images, digits.test_labels)
    return train, test


def _write_one(path: str, images: digits_data.Array, labels: digits_data.Array) -> None:
    with tf.io.TFRecordWriter(path) as writer:
        for image, label in zip(images, labels):
            feature = {
                "image": tf.train.Feature(float_list=tf.train.FloatList(value=image)),
                "label": tf.train.Feature(int64_list=tf.train.Int64List(value=[label])),
            }
            example = tf.train.Example(features=tf.train.Features(feature=feature))
            writer.write(example.SerializeToString())


def parse(serialized: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Return image ``(64,)`` float32 and label ``()`` int64 of a serialized Example."""
    found = tf.io.parse_single_example(serialized, {
        "image": tf.io.FixedLenFeature([digits_data.NUM_PIXELS], tf.float32),
        "label": tf.io.FixedLenFeature([], tf.int64),
    })
    return found["image"], found["label"]


def classifier(images: tf.Tensor, labels: tf.Tensor, hidden: int, seed: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Return the loss of a batch and the share of it that is classified rightly; weights come from the seed."""
    value = images
    for number, width in enumerate((hidden, digits_data.NUM_CLASSES)):
        with tf.variable_scope(f"layer{number}", use_resource=True, reuse=tf.AUTO_REUSE):
            kernel = tf.get_variable("kernel", [value.shape[1], width],
                                     initializer=tf.glorot_uniform_initializer(seed + number))
            bias = tf.get_variable("bias", [width], initializer=tf.zeros_initializer())
        value = tf.matmul(value if number == 0 else tf.nn.tanh(value), kernel) + bias
    loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=value))
    return loss, tf.reduce_mean(tf.cast(tf.equal(tf.argmax(value, axis=1), labels), tf.float32))
