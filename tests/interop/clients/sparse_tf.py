"""Sparse and ragged work as people write it: sampled losses, embeddings, parsing, sets, strings, summaries."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow.compat.v1 as tf
from checks import check, main, plain, session

tf.disable_eager_execution()

CLASSES, WIDTH = 200, 8


def run(target: str, build: Any) -> Any:
    """Return what the fetches that `build` makes give, in a session of their own."""
    with tf.Graph().as_default() as graph:
        tf.set_random_seed(11)
        fetches = build()
        with session(target, graph) as sess:
            sess.run([tf.global_variables_initializer(), tf.tables_initializer()])
            return plain(readable(sess.run(fetches)))


def readable(value: Any) -> Any:
    """Take sparse and ragged values apart."""
    if isinstance(value, dict):
        return {key: readable(item) for key, item in value.items()}
    if isinstance(value, tf.SparseTensorValue):
        return [value.indices, value.values, value.dense_shape]
    if isinstance(value, tf.ragged.RaggedTensorValue):
        return value.to_list()
    if isinstance(value, (list, tuple)):
        return [readable(item) for item in value]
    return value


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


def sparse(dtype: Any = tf.float32) -> Any:
    return tf.SparseTensor([[0, 1], [0, 3], [2, 0], [2, 2]], tf.cast([1, 2, 3, 4], dtype), [4, 5])


@check
def bags_of_words(target: str) -> Any:
    """Train embeddings that are combined by row, some rows empty."""
    seen = {}
    for combiner in ("sum", "mean", "sqrtn"):
        with tf.Graph().as_default() as graph:
            table = tf.get_variable("table", initializer=np.linspace(-1, 1, 40).reshape(10, 4).astype(np.float32))
            rows = tf.nn.safe_embedding_lookup_sparse(table, sparse(tf.int64), combiner=combiner)
            loss = tf.reduce_sum(tf.square(rows - 0.5))
            train = tf.train.AdagradOptimizer(0.3).minimize(loss)
            with session(target, graph) as sess:
                sess.run(tf.global_variables_initializer())
                losses = [sess.run([loss, train])[0] for _ in range(4)]
                seen[combiner] = plain([losses, sess.run(table)])
    return seen


@check
def sparse_algebra(target: str) -> Any:
    def build() -> Any:
        one = sparse()
        other = tf.sparse.from_dense(np.array([[0, 2, 0, 0, 1]] * 4, np.float32))
        dense = tf.reshape(tf.range(20.0), [5, 4])
        product = tf.sparse.sparse_dense_matmul(one, dense)
        values = tf.placeholder_with_default(one.values, [4])
        return {
            "dense": tf.sparse.to_dense(one), "sum": tf.sparse.reduce_sum(one, 1), "add": tf.sparse.add(one, other),
            "both": tf.sparse.concat(1, [one, other]), "slice": tf.sparse.slice(one, [0, 1], [3, 3]),
            "split": tf.sparse.split(sp_input=one, num_split=2, axis=0), "transposed": tf.sparse.transpose(one),
            "flat": tf.sparse.reshape(one, [-1]), "softmax": tf.sparse.softmax(one),
            "max": tf.sparse.maximum(one, other),
            "scaled": one * np.arange(5, dtype=np.float32), "product": product,
            "slope": tf.gradients(tf.sparse.sparse_dense_matmul(
                tf.SparseTensor(one.indices, values, one.dense_shape), dense), values),
            "filled": tf.sparse.fill_empty_rows(one, -1.0), "many": tf.io.deserialize_many_sparse(
                tf.io.serialize_many_sparse(one), tf.float32),
            "cross": tf.sparse.cross_hashed([sparse(tf.int64), sparse(tf.int64)], 100),
        }

    return run(target, build)


@check
def examples(target: str) -> Any:
    """Parse Examples and SequenceExamples with every kind of feature."""
    batch = []
    for number in range(3):
        example = tf.train.Example()
        feature = example.features.feature
        feature["name"].bytes_list.value.extend([b"n%d" % number] * number)
        feature["place"].int64_list.value.extend(range(number))
        feature["size"].float_list.value.extend([number, number + 0.5])
        feature["index"].int64_list.value.append(number)
        batch.append(example.SerializeToString())
    sequence = tf.train.SequenceExample()
    sequence.context.feature["id"].int64_list.value.append(7)
    for number in range(3):
        sequence.feature_lists.feature_list["steps"].feature.add().float_list.value.extend([number, -number])

    def build() -> Any:
        features = {
            "name": tf.io.VarLenFeature(tf.string), "size": tf.io.FixedLenFeature([2], tf.float32),
            "place": tf.io.RaggedFeature(tf.int64), "none": tf.io.FixedLenFeature([], tf.string, "?"),
            "pair": tf.io.SparseFeature("index", "index", tf.int64, 10),
        }
        context, lists = tf.io.parse_single_sequence_example(
            sequence.SerializeToString(), {"id": tf.io.FixedLenFeature([], tf.int64)},
            {"steps": tf.io.FixedLenSequenceFeature([2], tf.float32)})
        one = tf.io.parse_single_example(batch[2], {"size": tf.io.FixedLenFeature([2], tf.float32),
                                                    "name": tf.io.VarLenFeature(tf.string)})
        return [tf.io.parse_example(batch, features), one, context, lists,
                tf.io.decode_csv(["1,a,2.5", "3,,4"], [[0], ["x"], [0.0]]), tf.io.decode_raw([b"abcd"], tf.int16)]

    return run(target, build)


@check
def ragged_and_texts(target: str) -> Any:
    def build() -> Any:
        rows = tf.ragged.constant([[1, 2, 3], [], [4]])
        texts = tf.constant(["héllo", "wörld!"])
        points = tf.strings.unicode_decode(texts, "UTF-8")
        return {
            "dense": rows.to_tensor(-1), "sparse": rows.to_sparse(), "picked": tf.gather(rows, [2, 0]),
            "range": tf.ragged.range([0, 5], [3, 9], [1, 2]), "sum": tf.reduce_sum(rows, axis=1), "points": points,
            "back": tf.strings.unicode_encode(points, "UTF-8"), "base64": tf.io.encode_base64(texts),
            "strong": tf.strings.to_hash_bucket_strong(texts, 100, [1, 2]),
            "union": tf.sets.union([[1, 2, 3]], [[3, 4, 5]]), "size": tf.sets.size(sparse(tf.int64)),
            "distance": tf.edit_distance(sparse(tf.int64), tf.sparse.slice(sparse(tf.int64), [0, 0], [4, 3])),
            "joined": tf.strings.unsorted_segment_join(["a", "b", "c"], [1, 0, 1], 2, "-"),
        }

    return run(target, build)


@check
def scattered(target: str) -> Any:
    """Change parts of variables of both kinds, and of tensors."""
    seen = {}
    for resource in (False, True):
        def build(resource: bool = resource) -> Any:
            start = np.arange(12, dtype=np.float32).reshape(4, 3)
            with tf.variable_scope("v", use_resource=resource):
                variable = tf.get_variable("v", initializer=start)
            with tf.control_dependencies([variable.initializer]):
                added = variable.scatter_nd_add([[0, 1], [3, 2]], [10.0, 20.0])
            with tf.control_dependencies([added]):
                assigned = variable[1, :2].assign([-1.0, -2.0])
            with tf.control_dependencies([assigned]):
                value = tf.identity(variable.read_value())
            return [value, tf.tensor_scatter_nd_update(start, [[2]], [[7.0, 8.0, 9.0]]),
                    tf.tensor_scatter_nd_max(start, [[0, 0], [0, 0]], [5.0, 3.0])]

        seen[str(resource)] = run(target, build)
    return seen


@check
def drawn(target: str) -> Any:
    """Draw from distributions with parameters, twice from each stream."""
    with tf.Graph().as_default() as graph:
        tf.set_random_seed(3)
        logits = np.log([[0.1, 0.2, 0.7], [0.5, 0.25, 0.25]]).astype(np.float32)
        fetches = {"gamma": tf.random.gamma([4], [0.5, 2.0]), "poisson": tf.random.poisson([3.0, 30.0], [4]),
                   "categorical": tf.random.categorical(logits, 9),
                   "stateless": tf.random.stateless_categorical(logits, 9, [1, 2]),
                   "truncated": tf.random.truncated_normal([5])}
        with session(target, graph) as sess:
            return plain([sess.run(fetches), sess.run(fetches)])


if __name__ == "__main__":
    main()
