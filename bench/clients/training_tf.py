"""Time whole training steps of one unmodified TensorFlow client against several servers, interleaved.

Runs in the interpreter that has TensorFlow: ``python training_tf.py SPEC``, where the specification is the JSON of
``{"targets": {name: "grpc://..."}, "pids": {name: number}, "cases": [names], "seconds": per case and server}``.
Prints a JSON object per case: for every server what `interleaved.summary` says, the time and the loss of the first
step, and the server's processor time per step.
A script of TensorFlow 1 as it was: reference variables, and loops in frames unless a case says otherwise.
"""

import contextlib
import json
import os
import subprocess
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow.compat.v1 as tf
from interleaved import measure, summary

SPINNERS = 2
# A spinning process ends by itself when the benchmark was killed.
SPINNER = "import sys, time\nend = time.monotonic() + float(sys.argv[1])\nwhile time.monotonic() < end:\n    pass"
SPINNER_LIMIT_S = 600.0
# First losses are compared so that both servers are known to do the same work.
LOSS_TOLERANCE = 1e-3


def dense(value, width, name, activation=None):
    """A layer whose weights every server starts alike."""
    rows = int(value.shape[-1])
    start = np.random.default_rng(rows * 1000 + width).standard_normal((rows, width)) / np.sqrt(rows)
    kernel = tf.get_variable(f"{name}_kernel", initializer=start.astype("f4"))
    bias = tf.get_variable(f"{name}_bias", initializer=np.zeros(width, "f4"))
    value = tf.nn.bias_add(tf.matmul(value, kernel), bias)
    return activation(value) if activation else value


def convolution(images, channels, name):
    """A 5x5 convolution with ReLU, then pooling by two."""
    shape = (5, 5, int(images.shape[-1]), channels)
    start = np.random.default_rng(channels).standard_normal(shape) / np.sqrt(np.prod(shape[:3]))
    kernel = tf.get_variable(f"{name}_kernel", initializer=start.astype("f4"))
    bias = tf.get_variable(f"{name}_bias", initializer=np.zeros(channels, "f4"))
    found = tf.nn.relu(tf.nn.bias_add(tf.nn.conv2d(images, kernel, strides=1, padding="SAME"), bias))
    return tf.nn.max_pool(found, 2, 2, "SAME")


def trained(logits, labels):
    loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits))
    return loss, tf.train.AdamOptimizer(1e-3).minimize(loss)


def mlp(batch=128):
    """One Adam step of a 784-512-512-10 classifier."""
    images = tf.placeholder(tf.float32, [None, 784])
    labels = tf.placeholder(tf.int32, [None])
    layer = dense(dense(images, 512, "first", tf.nn.relu), 512, "second", tf.nn.relu)
    rng = np.random.default_rng(0)
    feeds = {images: rng.standard_normal((batch, 784)).astype("f4"), labels: rng.integers(0, 10, batch).astype("i4")}
    return (*trained(dense(layer, 10, "logits"), labels), feeds)


def cnn(batch=64):
    """One Adam step of two 5x5 convolutions (1, 32, 64 channels) with pooling and two dense layers on 28x28 images."""
    images = tf.placeholder(tf.float32, [None, 28, 28, 1])
    labels = tf.placeholder(tf.int32, [None])
    found = convolution(convolution(images, 32, "first"), 64, "second")
    layer = dense(tf.reshape(found, [-1, 7 * 7 * 64]), 128, "hidden", tf.nn.relu)
    rng = np.random.default_rng(0)
    feeds = {images: rng.random((batch, 28, 28, 1), "f4"), labels: rng.integers(0, 10, batch).astype("i4")}
    return (*trained(dense(layer, 10, "logits"), labels), feeds)


class LSTMCell:
    """What ``dynamic_rnn`` needs of a cell; TensorFlow's own went with Keras 3."""

    def __init__(self, units):
        self.units = self.output_size = units
        self.state_size = (units, units)

    def zero_state(self, batch_size, dtype):
        zeros = tf.zeros([batch_size, self.units], dtype)
        return zeros, zeros

    def __call__(self, inputs, state, scope=None):
        cell, hidden = state
        gates = dense(tf.concat([inputs, hidden], 1), 4 * self.units, "gates")
        enter, candidate, forget, leave = tf.split(gates, 4, 1)
        cell = cell * tf.sigmoid(forget + 1.0) + tf.sigmoid(enter) * tf.tanh(candidate)
        hidden = tf.tanh(cell) * tf.sigmoid(leave)
        return hidden, (cell, hidden)


def lstm(batch=32, steps=50, features=64):
    """One Adam step of an LSTM of 128 units over 50 steps by a dynamic loop."""
    words = tf.placeholder(tf.float32, [None, steps, features])
    labels = tf.placeholder(tf.int32, [None])
    outputs, _ = tf.nn.dynamic_rnn(LSTMCell(128), words, dtype=tf.float32)
    rng = np.random.default_rng(0)
    feeds = {words: rng.standard_normal((batch, steps, features)).astype("f4"),
             labels: rng.integers(0, 10, batch).astype("i4")}
    return (*trained(dense(outputs[:, -1], 10, "logits"), labels), feeds)


@contextlib.contextmanager
def control_flow_in_functions():
    """Loops as While ops with functions, as programs of TensorFlow 2 write them, instead of frames."""
    tf.enable_control_flow_v2()
    try:
        yield
    finally:
        tf.disable_control_flow_v2()


@contextlib.contextmanager
def spinning(count):
    """Keep `count` processes busy."""
    command = [sys.executable, "-S", "-c", SPINNER, str(SPINNER_LIMIT_S)]
    spinners = [subprocess.Popen(command) for _ in range(count)]
    try:
        yield
    finally:
        for spinner in spinners:
            spinner.kill()
            spinner.wait()


CASES = {
    "mlp": (mlp, contextlib.nullcontext, 0),
    "cnn": (cnn, contextlib.nullcontext, 0),
    "lstm": (lstm, contextlib.nullcontext, 0),
    "lstm-functions": (lstm, control_flow_in_functions, 0),
    "mlp-busy": (mlp, contextlib.nullcontext, SPINNERS),
}


def run_case(case, targets, pids, seconds):
    build, graph_style, spinners = CASES[case]
    # Sessions on one server share variables by name, so every case has names of its own.
    with tf.Graph().as_default() as graph, graph_style(), tf.variable_scope(case):
        loss, train, feeds = build()
        init = tf.global_variables_initializer()
    sessions, servers, calls = {}, {}, {}
    for name, target in targets.items():
        session = sessions[name] = tf.Session(target, graph=graph)
        session.run(init)
        start = time.perf_counter()
        _, first_loss = session.run([train, loss], feeds)
        servers[name] = {"first_ms": (time.perf_counter() - start) * 1e3, "first_loss": float(first_loss)}
        calls[name] = lambda session=session: session.run([train, loss], feeds)
    losses = [server["first_loss"] for server in servers.values()]
    if max(losses) - min(losses) > LOSS_TOLERANCE:
        raise SystemExit(f"{case}: the servers disagree about the first loss: {losses}")
    with spinning(spinners):
        times, cpu_us = measure(calls, seconds, pids)
    for name, session in sessions.items():
        servers[name].update(summary(times[name]), cpu_us=cpu_us[name])
        session.close()
    return {"case": case, "servers": servers}


def main():
    tf.logging.set_verbosity(tf.logging.ERROR)
    tf.disable_v2_behavior()
    spec = json.loads(sys.argv[1])
    for case in spec["cases"]:
        print(json.dumps(run_case(case, spec["targets"], spec["pids"], spec["seconds"])), flush=True)


if __name__ == "__main__":
    main()
