"""Train on the digits through queues that the graph fills itself, with a TensorFlow client.

    python examples/digits_queues_tf.py grpc://HOST:PORT --folder DIR [--data FILE.npz]

The classic input pipeline: a queue of file names, a reader of records, and a queue of batches, filled by threads of
this program that a coordinator starts and stops. The server may be this project's or TensorFlow's own. It reads the
files, so the folder must be one that it may read and that this program may write. Prints one JSON object a line: for
each step its number and loss, at the end how many records were read and the test accuracy.
"""

from __future__ import annotations

import argparse
import json
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import digits_data
import digits_records
import tensorflow.compat.v1 as tf


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("target", help="grpc://HOST:PORT")
    parser.add_argument("--folder", required=True, help="where the records are written and read")
    parser.add_argument("--data", help=".npz file with images and labels; scikit-learn's digits when not given")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--batch", type=int, default=32, help="images per step")
    parser.add_argument("--hidden", type=int, default=64)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()

    tf.disable_eager_execution()
    tf.set_random_seed(options.seed)
    digits = digits_data.load(options.data, options.seed)
    train_paths, _ = digits_records.write(digits, options.folder)

    # One thread fills each queue, so that every server sees the same batches in the same order.
    paths = tf.train.string_input_producer(train_paths, seed=options.seed)
    reader = tf.TFRecordReader()
    _, serialized = reader.read(paths)
    images, labels = tf.train.batch(digits_records.parse(serialized), options.batch, num_threads=1, capacity=128)
    loss, _ = digits_records.classifier(images, labels, options.hidden, options.seed)
    train = tf.train.AdamOptimizer(0.005).minimize(loss)
    test_images = tf.placeholder(tf.float32, [None, digits_data.NUM_PIXELS])
    test_labels = tf.placeholder(tf.int64, [None])
    _, accuracy = digits_records.classifier(test_images, test_labels, options.hidden, options.seed)
    read = reader.num_records_produced()

    with tf.Session(options.target) as session:
        session.run(tf.global_variables_initializer())
        coordinator = tf.train.Coordinator()
        threads = tf.train.start_queue_runners(session, coordinator)
        try:
            for step in range(options.steps):
                found, _ = session.run([loss, train])
                print(json.dumps({"step": step, "loss": float(found)}), flush=True)
        finally:
            coordinator.request_stop()
            coordinator.join(threads, stop_grace_period_secs=30)
        right = session.run(accuracy, {test_images: digits.test_images, test_labels: digits.test_labels})
        print(json.dumps({"records_read": int(session.run(read)), "test_accuracy": float(right)}))


if __name__ == "__main__":
    main()
