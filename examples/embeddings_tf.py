"""Learn word embeddings from the text of Python's own documentation, with sampled softmax, by a TensorFlow client.

    python examples/embeddings_tf.py grpc://HOST:PORT [--text FILE]

The server may be this project's or TensorFlow's own. Each word is to predict the words near it (skip-gram); only some
drawn words are told apart from the right one in each step, and only the rows that a step touches are changed. Prints
one JSON object a line: for each step its number and loss, at the end the words nearest to some others.
"""

from __future__ import annotations

import argparse
import json
import os
import re
from collections import Counter

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import tensorflow.compat.v1 as tf

NAME = "embeddings"
WINDOW = 2
ASKED = ("class", "string", "integer", "true")


def read_words(path, size):
    """Return the `size` most frequent words, the most frequent first, and the text as numbers of words."""
    if path:
        with open(path, encoding="utf-8") as file:
            text = file.read()
    else:
        from pydoc_data import topics

        text = " ".join(topics.topics.values())
    words = re.findall(r"[a-z]+", text.lower())
    # Sampled softmax draws small numbers more often, as words are when sorted by frequency.
    known = [word for word, _ in sorted(Counter(words).items(), key=lambda item: (-item[1], item[0]))][:size]
    numbers = {word: number for number, word in enumerate(known)}
    return known, np.array([numbers[word] for word in words if word in numbers], np.int64)


def draw_pairs(text, batch, rng):
    """Return words (batch,) and a word near each (batch, 1)."""
    places = rng.integers(WINDOW, len(text) - WINDOW, batch)
    shifts = rng.choice([shift for shift in range(-WINDOW, WINDOW + 1) if shift], batch)
    return text[places], text[places + shifts][:, None]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("target", help="grpc://HOST:PORT")
    parser.add_argument("--text", help="file to learn from; Python's documentation when not given")
    parser.add_argument("--words", type=int, default=2000, help="size of the vocabulary")
    parser.add_argument("--units", type=int, default=64, help="size of an embedding")
    parser.add_argument("--sampled", type=int, default=64, help="words drawn per step")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--batch", type=int, default=128, help="pairs of words per step")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()

    vocabulary, text = read_words(options.text, options.words)
    rng = np.random.default_rng(options.seed)
    tf.disable_v2_behavior()
    tf.set_random_seed(options.seed)
    words = tf.placeholder(tf.int64, [None], name="words")
    near = tf.placeholder(tf.int64, [None, 1], name="near")
    shape = [len(vocabulary), options.units]
    with tf.variable_scope(NAME):
        table = tf.get_variable("table", shape, initializer=tf.random_uniform_initializer(-1, 1))
        weights = tf.get_variable("weights", shape,
                                  initializer=tf.truncated_normal_initializer(stddev=options.units**-0.5))
        biases = tf.get_variable("biases", shape[:1], initializer=tf.zeros_initializer())
    embedded = tf.nn.embedding_lookup(table, words)
    loss = tf.reduce_mean(tf.nn.sampled_softmax_loss(weights, biases, near, embedded, options.sampled, shape[0]))
    train = tf.train.AdagradOptimizer(0.5).minimize(loss)
    directions = tf.nn.l2_normalize(table, axis=1)
    similarity = tf.matmul(tf.nn.embedding_lookup(directions, words), directions, transpose_b=True)
    nearest = tf.nn.top_k(similarity, 6).indices

    with tf.Session(options.target) as session:
        session.run(tf.global_variables_initializer())
        for step in range(options.steps):
            given, wanted = draw_pairs(text, options.batch, rng)
            found, _ = session.run([loss, train], {words: given, near: wanted})
            print(json.dumps({"step": step, "loss": float(found)}), flush=True)
        asked = [word for word in ASKED if word in vocabulary]
        rows = session.run(nearest, {words: [vocabulary.index(word) for word in asked]})
    print(json.dumps({"nearest": {word: [vocabulary[number] for number in row if vocabulary[number] != word][:5]
                                  for word, row in zip(asked, rows)}}))


if __name__ == "__main__":
    main()
