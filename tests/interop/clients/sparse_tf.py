"""Losses over sampled classes: what embeddings of words are trained with."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow.compat.v1 as tf
from checks import check, main, plain, session

tf.disable_eager_execution()

CLASSES, WIDTH = 200, 8


@check
def sampled_losses(target: str) -> Any:
    """Return the losses of a few steps with each sampled loss, and where the weights went."""
    return {name: words(target, loss) for name, loss in
            (("softmax", tf.nn.sampled_softmax_loss), ("contrastive", tf.nn.nce_loss))}


def words(target: str, loss_function: Any) -> Any:
    random = np.random.default_rng(5)
    inputs, labels = random.integers(0, CLASSES, 32), random.integers(0, CLASSES, (32, 1))
    table = random.normal(size=(CLASSES, WIDTH)).astype(np.float32)
    with tf.Graph().as_default() as graph:
        tf.set_random_seed(11)
        embeddings = tf.get_variable("embeddings", initializer=table)
        weights = tf.get_variable("weights", initializer=table[::-1].copy(), use_resource=True)
        biases = tf.get_variable("biases", initializer=np.zeros(CLASSES, np.float32))
        embedded = tf.nn.embedding_lookup(embeddings, inputs)
        loss = tf.reduce_mean(loss_function(weights, biases, labels, embedded, 12, CLASSES))
        train = tf.train.GradientDescentOptimizer(0.5).minimize(loss)
        with session(target, graph) as sess:
            sess.run(tf.global_variables_initializer())
            losses = [sess.run([loss, train])[0] for _ in range(5)]
            return plain({"losses": losses, "table": sess.run(embeddings)[inputs[:3]]})


if __name__ == "__main__":
    main()
