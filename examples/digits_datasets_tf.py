"""Train on the digits through datasets in the graph, with a TensorFlow client.

    python examples/digits_datasets_tf.py grpc://HOST:PORT --folder DIR [--data FILE.npz]

The server reads record files in turn, parses, shuffles, batches and reads ahead; one handle switches the graph between
the training data and the test. The server may be this project's or TensorFlow's own: seeds decide the order, the same
on both. It reads the files, so the folder must be one that it may read and that this program may write. Prints one
JSON object a line: for each step its number and loss, after each epoch the test accuracy.
"""

from __future__ import annotations

import argparse
import json
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import digits_data
import digits_records
import numpy as np
import tensorflow.compat.v1 as tf


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("target", help="grpc://HOST:PORT")
    parser.add_argument("--folder", required=True, help="where the records are written and read")
    parser.add_argument("--data", help=".npz file with images and labels; scikit-learn's digits when not given")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch", type=int, default=32, help="images per step")
    parser.add_argument("--hidden", type=int, default=64)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()

    tf.disable_eager_execution()
    tf.set_random_seed(options.seed)
    train_paths, test_paths = digits_records.write(digits_data.load(options.data, options.seed), options.folder)

    train_data = (
        tf.data.Dataset.from_tensor_slices(train_paths)
        .interleave(tf.data.TFRecordDataset, cycle_length=len(train_paths), block_length=4)
        .map(digits_records.parse, num_parallel_calls=2)
        .shuffle(500, seed=options.seed)
        .batch(options.batch, drop_remainder=True)
        .prefetch(2)
    )
    test_data = tf.data.TFRecordDataset(test_paths).map(digits_records.parse).batch(100)
    train_iterator = tf.data.make_initializable_iterator(train_data)
    test_iterator = tf.data.make_initializable_iterator(test_data)
    handle = tf.placeholder(tf.string, [])
    shapes = ([None, digits_data.NUM_PIXELS], [None])
    either = tf.data.Iterator.from_string_handle(handle, (tf.float32, tf.int64), shapes)
    images, labels = either.get_next()
    loss, accuracy = digits_records.classifier(images, labels, options.hidden, options.seed)
    train = tf.train.AdamOptimizer(0.005).minimize(loss)
    size = tf.shape(labels)[0]

    step = 0
    with tf.Session(options.target) as session:
        session.run(tf.global_variables_initializer())
        train_handle, test_handle = session.run([train_iterator.string_handle(), test_iterator.string_handle()])
        for epoch in range(options.epochs):
            session.run(train_iterator.initializer)
            while True:
                try:
                    found, _ = session.run([loss, train], {handle: train_handle})
                except tf.errors.OutOfRangeError:
                    break
                print(json.dumps({"step": step, "loss": float(found)}), flush=True)
                step += 1
            session.run(test_iterator.initializer)
            parts = []
            while True:
                try:
                    parts.append(session.run([accuracy, size], {handle: test_handle}))
                except tf.errors.OutOfRangeError:
                    break
            rights, sizes = zip(*parts)
            print(json.dumps({"epoch": epoch, "test_accuracy": float(np.average(rights, weights=sizes))}), flush=True)


if __name__ == "__main__":
    main()
