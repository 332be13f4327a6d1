"""Run by the peer's interpreter: derivatives of given graphs, by TensorFlow's rules and by the nodes in the graph.

The only argument is a folder with ``cases.json`` (per case: the scalar's name, the inputs' names, the gradients'
names) and per case ``N.forward.pb``, ``N.full.pb`` and ``N.feeds.npz``. Writes ``N.answers.npz`` with ``theirs_I`` and
``ours_I`` for the I-th input.
"""

import json
import pathlib
import sys

import numpy as np
import tensorflow.compat.v1 as tf

CONFIG = tf.ConfigProto(inter_op_parallelism_threads=1, intra_op_parallelism_threads=1)
CONFIG.graph_options.rewrite_options.disable_meta_optimizer = True
CONFIG.graph_options.optimizer_options.opt_level = -1


def run(path, feeds, initializer, make_fetches):
    graph = tf.Graph()
    with graph.as_default():
        tf.import_graph_def(tf.GraphDef.FromString(path.read_bytes()), name="")
        fetches = make_fetches(graph)
    with tf.Session(graph=graph, config=CONFIG) as session:
        if initializer:
            session.run(initializer)
        return session.run(fetches, feeds)


def dense(gradient):
    return tf.convert_to_tensor(gradient) if isinstance(gradient, tf.IndexedSlices) else gradient


def answer(folder, number, case):
    with np.load(folder / f"{number}.feeds.npz") as file:
        feeds = {name: file[key] for key, name in case["feeds"].items()}
    by_theirs = run(
        folder / f"{number}.forward.pb", feeds, case["initializer"],
        lambda graph: [dense(found) for found in tf.gradients(
            graph.get_tensor_by_name(case["loss"]), [graph.get_tensor_by_name(name) for name in case["inputs"]])])
    by_ours = run(folder / f"{number}.full.pb", feeds, case["initializer"], lambda graph: case["gradients"])
    answers = {f"theirs_{i}": value for i, value in enumerate(by_theirs)}
    answers.update({f"ours_{i}": value for i, value in enumerate(by_ours)})
    return answers


def main():
    folder = pathlib.Path(sys.argv[1])
    for number, case in enumerate(json.loads((folder / "cases.json").read_text())):
        try:
            answers = answer(folder, number, case)
        except Exception as error:  # told to the one test that asks for this case
            answers = {"error": np.array(f"{type(error).__name__}: {error}")}
        np.savez(folder / f"{number}.answers.npz", **answers)


main()
