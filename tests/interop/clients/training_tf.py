"""Whole jobs as people write them: training loops, optimizers, checkpoints, monitored sessions."""

from __future__ import annotations

import os
import tempfile
from typing import Any

import numpy as np
import tensorflow.compat.v1 as tf
from checks import check, failure, main, plain, session, skip

tf.disable_eager_execution()


def digits() -> tuple[np.ndarray, np.ndarray]:
    """Return a small two-class problem that a linear model solves."""
    random = np.random.default_rng(0)
    x = random.normal(size=(64, 4)).astype(np.float32)
    return x, (x @ np.array([1.0, -2.0, 0.5, 0.0], np.float32) > 0).astype(np.int64)


def network(x: Any, resource: bool, prefix: str) -> Any:
    with tf.variable_scope(prefix, use_resource=resource):
        first = tf.get_variable("first", initializer=np.linspace(-0.5, 0.5, 32).reshape(4, 8).astype(np.float32))
        bias = tf.get_variable("bias", initializer=np.zeros(8, np.float32))
        second = tf.get_variable("second", initializer=np.linspace(0.5, -0.5, 16).reshape(8, 2).astype(np.float32))
    return tf.matmul(tf.nn.relu(tf.matmul(x, first) + bias), second)


OPTIMIZERS = {
    "sgd": lambda: tf.train.GradientDescentOptimizer(0.5),
    "momentum": lambda: tf.train.MomentumOptimizer(0.1, 0.9),
    "nesterov": lambda: tf.train.MomentumOptimizer(0.1, 0.9, use_nesterov=True),
    "adam": lambda: tf.train.AdamOptimizer(0.05),
    "adagrad": lambda: tf.train.AdagradOptimizer(0.3),
    "rmsprop": lambda: tf.train.RMSPropOptimizer(0.02),
    "adadelta": lambda: tf.train.AdadeltaOptimizer(1.0),
    "ftrl": lambda: tf.train.FtrlOptimizer(0.3),
}


@check
def optimizers(target: str) -> Any:
    return train_with(target, "sgd", "momentum", "nesterov", "adam", "adagrad", "rmsprop")


@check
def rarer_optimizers(target: str) -> Any:
    return train_with(target, "adadelta", "ftrl")


def train_with(target: str, *names: str) -> Any:
    """Return the losses over ten steps with each optimizer, on reference and on resource variables."""
    data, labels = digits()
    seen = {}
    for name in names:
        make = OPTIMIZERS[name]
        for resource in (False, True):
            with tf.Graph().as_default() as graph:
                x = tf.placeholder(tf.float32, [None, 4], name="x")
                y = tf.placeholder(tf.int64, [None], name="y")
                logits = network(x, resource, f"{name}_{resource}")
                loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels=y, logits=logits))
                train = make().minimize(loss)
                with session(target, graph) as sess:
                    sess.run(tf.global_variables_initializer())
                    feed = {x: data, y: labels}
                    losses = [sess.run([loss, train], feed)[0] for _ in range(10)]
                    losses.append(sess.run(loss, feed))
                    seen[f"{name} {'resource' if resource else 'ref'}"] = [float(value) for value in losses]
    return seen


@check
def embeddings(target: str) -> Any:
    """Sparse gradients: rows looked up, and the same row more than once."""
    seen = {}
    for name in ("sgd", "adam", "momentum", "adagrad"):
        for resource in (False, True):
            with tf.Graph().as_default() as graph:
                ids = tf.placeholder(tf.int64, [None], name="ids")
                table = tf.get_variable(
                    f"table_{name}_{resource}",
                    initializer=np.arange(12, dtype=np.float32).reshape(6, 2) / 10,
                    use_resource=resource,
                )
                loss = tf.reduce_sum(tf.nn.embedding_lookup(table, ids) ** 2)
                train = OPTIMIZERS[name]().minimize(loss)
                with session(target, graph) as sess:
                    sess.run(tf.global_variables_initializer())
                    for _ in range(3):
                        sess.run(train, {ids: [1, 4, 1]})
                    seen[f"{name} {'resource' if resource else 'ref'}"] = np.round(sess.run(table), 4)
    return seen


@check
def convolutional_network(target: str) -> Any:
    random = np.random.default_rng(1)
    images = random.normal(size=(4, 8, 8, 1)).astype(np.float32)
    labels = np.array([0, 1, 2, 1])
    with tf.Graph().as_default() as graph:
        x = tf.placeholder(tf.float32, [None, 8, 8, 1], name="x")
        y = tf.placeholder(tf.int64, [None], name="y")
        kernel = tf.get_variable("kernel", initializer=random.normal(size=(3, 3, 1, 4), scale=0.3).astype(np.float32))
        hidden = tf.nn.max_pool2d(tf.nn.relu(tf.nn.conv2d(x, kernel, 1, "SAME")), 2, 2, "VALID")
        scale = tf.get_variable("scale", initializer=np.ones(4, np.float32))
        offset = tf.get_variable("offset", initializer=np.zeros(4, np.float32))
        hidden, _, _ = tf.nn.fused_batch_norm(hidden, scale, offset)
        flat = tf.reshape(hidden, [-1, 64])
        dense = tf.get_variable("dense", initializer=random.normal(size=(64, 3), scale=0.1).astype(np.float32))
        loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels=y, logits=tf.matmul(flat, dense)))
        gradients, variables = zip(*tf.train.AdamOptimizer(0.01).compute_gradients(loss))
        clipped, norm = tf.clip_by_global_norm(gradients, 0.5)
        step = tf.train.get_or_create_global_step()
        rate = tf.train.exponential_decay(0.01, step, 2, 0.5, staircase=True)
        train = tf.train.AdamOptimizer(rate).apply_gradients(zip(clipped, variables), global_step=step)
        with session(target, graph) as sess:
            sess.run(tf.global_variables_initializer())
            losses = []
            for _ in range(6):
                value, size, _, decayed, number = sess.run([loss, norm, train, rate, step], {x: images, y: labels})
                losses.append([float(value), float(size)])
            return {"losses": losses, "step": sess.run(step)}


@check
def checkpoints(target: str) -> Any:
    folder = tempfile.mkdtemp(dir=os.environ.get("TENSOR_RUNTIME_TEST_FILES"))
    path = os.path.join(folder, "model")
    with tf.Graph().as_default() as graph:
        ref = tf.get_variable("saved_ref", initializer=[1.0, 2.0], use_resource=False)
        resource = tf.get_variable("saved_resource", initializer=[[3]], use_resource=True)
        text = tf.get_variable("saved_text", initializer=[b"a", b"bc"], use_resource=False)
        change = [ref.assign([0.0, 0.0]), resource.assign([[0]]), text.assign([b"", b""])]
        saver = tf.train.Saver(max_to_keep=2)
        with session(target, graph) as sess:
            sess.run(tf.global_variables_initializer())
            saved = saver.save(sess, path, global_step=3)
            sess.run(change)
            zeros = sess.run([ref, resource, text])
            saver.restore(sess, saved)
            back = sess.run([ref, resource, text])
            missing = failure(saver.restore, sess, path + "-99")["code"] if tf.train.checkpoint_exists(path) else None
    reader = tf.train.load_checkpoint(saved)
    return {
        "zeros": zeros,
        "back": back,
        "missing": missing,
        "latest": os.path.basename(tf.train.latest_checkpoint(folder)),
        "read here": [reader.get_tensor(name) for name in ("saved_ref", "saved_resource", "saved_text")],
        "files": sorted(os.listdir(folder)),
    }


@check
@skip("tensorflow")  # it would write the file
def files_elsewhere(target: str) -> Any:
    outside = tempfile.mkdtemp()
    path = os.path.join(outside, "written")
    with tf.Graph().as_default() as graph:
        v = tf.get_variable("saved_elsewhere", initializer=1.0)
        saver = tf.train.Saver()
        with session(target, graph) as sess:
            sess.run(v.initializer)
            seen = {
                "save": failure(
                    sess.run, saver.saver_def.save_tensor_name, {saver.saver_def.filename_tensor_name: path}
                ),
                "restore": failure(
                    sess.run, saver.saver_def.restore_op_name, {saver.saver_def.filename_tensor_name: path}
                ),
            }
    return {**seen, "files": os.listdir(outside), "folder": outside}


@check
def input_pipeline(target: str) -> Any:
    """Queues filled by the threads of queue runners, until the data ends."""
    with tf.Graph().as_default() as graph:
        numbers = tf.train.range_input_producer(10, num_epochs=2, shuffle=False).dequeue()
        batch = tf.train.batch([numbers, tf.as_string(numbers)], 6, allow_smaller_final_batch=True)
        with session(target, graph) as sess:
            sess.run([tf.local_variables_initializer(), tf.global_variables_initializer()])
            coordinator = tf.train.Coordinator()
            threads = tf.train.start_queue_runners(sess, coordinator)
            batches = []
            try:
                while not coordinator.should_stop():
                    batches.append(plain(sess.run(batch)))
            except tf.errors.OutOfRangeError as error:
                end = type(error).__name__
            coordinator.request_stop()
            coordinator.join(threads, stop_grace_period_secs=10)
    return {"batches": batches, "end": end}


@check
def monitored_session(target: str) -> Any:
    """A MonitoredTrainingSession: initialises, trains with hooks, writes a checkpoint, and a second one goes on."""
    folder = tempfile.mkdtemp(dir=os.environ.get("TENSOR_RUNTIME_TEST_FILES"))
    data, labels = digits()
    steps = []
    for last in (5, 8):
        with tf.Graph().as_default():
            x = tf.placeholder(tf.float32, [None, 4], name="x")
            y = tf.placeholder(tf.int64, [None], name="y")
            logits = network(x, True, "monitored")
            loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels=y, logits=logits))
            step = tf.train.get_or_create_global_step()
            train = tf.train.GradientDescentOptimizer(0.5).minimize(loss, global_step=step)
            with tf.control_dependencies([train]):
                reached = tf.identity(step.read_value())
            tf.summary.scalar("loss", loss)
            with tf.train.MonitoredTrainingSession(
                master=target,
                is_chief=True,
                checkpoint_dir=folder,
                hooks=[tf.train.StopAtStepHook(last_step=last), tf.train.NanTensorHook(loss)],
                save_checkpoint_steps=2,
                save_summaries_steps=2,
                log_step_count_steps=None,
                config=tf.ConfigProto(operation_timeout_in_ms=20000),
            ) as sess:
                while not sess.should_stop():
                    value, number = sess.run([loss, reached], {x: data, y: labels})
                    steps.append([int(number), round(float(value), 4)])
    events = [name for name in os.listdir(folder) if name.startswith("events.")]
    return {"steps": steps, "events": len(events) > 0, "latest": os.path.basename(tf.train.latest_checkpoint(folder))}


@check
def summaries(target: str) -> Any:
    with tf.Graph().as_default() as graph:
        x = tf.placeholder(tf.float32, [None], name="x")
        tf.summary.scalar("mean", tf.reduce_mean(x))
        tf.summary.histogram("values", x)
        merged = tf.summary.merge_all()
        with session(target, graph) as sess:
            written = tf.Summary.FromString(sess.run(merged, {x: [1.0, 2.0, 4.0]}))
    scalar, histogram = written.value
    return {
        "scalar": [scalar.tag, round(scalar.simple_value, 4)],
        "histogram": [
            histogram.tag,
            histogram.histo.min,
            histogram.histo.max,
            histogram.histo.num,
            histogram.histo.sum,
            list(histogram.histo.bucket_limit),
            list(histogram.histo.bucket),
        ],
    }


if __name__ == "__main__":
    main()
