"""In-graph datasets and iterators, as programs of TensorFlow 1 and 2 build them in graphs."""

from __future__ import annotations

import gzip
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow.compat.v1 as tf
from checks import check, failure, main, plain, session
from pipelines import FILES, failure_of, pipelines, read, value, write
from tensorflow import data as tf_data

tf.disable_eager_execution()
tf.autograph.set_verbosity(0)

AUTOTUNE = tf_data.AUTOTUNE
Data = tf.data.Dataset


def checked(x: Any) -> Any:
    return tf.debugging.check_numerics(1.0 / tf.cast(x, tf.float32), "bad", name="inverse")


def unfused(dataset: Any) -> Any:
    """Keep the server from joining a map with what follows."""
    return dataset.filter(lambda *x: True)


@pipelines
def sources() -> dict[str, Callable[[], Any]]:
    return {
        "tensors": lambda: Data.from_tensors((1, "a", [1.5, 2.5])),
        "slices": lambda: Data.from_tensor_slices({"a": np.arange(6).reshape(3, 2), "b": np.array(["x", "", "z"])}),
        "empty slices": lambda: Data.from_tensor_slices(np.zeros((0, 2))),
        "range": lambda: Data.range(2, 9, 3),
        "range down": lambda: Data.range(5, 0, -2),
        "empty range": lambda: Data.range(3, 3),
        "typed range": lambda: tf_data.Dataset.range(3, output_type=tf.float32),
        "random": lambda: Data.random(3).take(6),
        "scalar slices": lambda: Data.from_tensor_slices(value(3)),
        "unequal slices": lambda: Data.from_tensor_slices((value([1, 2]), value([1, 2, 3]))),
        "step of 0": lambda: Data.range(0, 5, value(0)),
        "start of two": lambda: Data.range(value([0, 1]), 5, 1),
    }


@pipelines
def selections() -> dict[str, Callable[[], Any]]:
    five = lambda: Data.range(5)  # noqa: E731
    return {
        "take": lambda: five().take(2), "take none": lambda: five().take(0), "take all": lambda: five().take(-1),
        "take more": lambda: five().take(9), "skip": lambda: five().skip(3), "skip all": lambda: five().skip(-1),
        "skip more": lambda: five().skip(7), "skip none": lambda: five().skip(0),
        "skip mapped": lambda: unfused(five()).skip(2), "repeat": lambda: Data.range(2).repeat(2),
        "repeat none": lambda: five().repeat(0), "repeat forever": lambda: Data.range(3).repeat().take(7),
        "repeat nothing": lambda: Data.range(0).repeat(), "concatenate": lambda: Data.range(2).concatenate(five()),
        "zip": lambda: Data.zip((five(), (Data.range(3), Data.range(9)))),
        "enumerate": lambda: Data.from_tensor_slices(["a", "b"]).enumerate(5),
        "shard": lambda: five().shard(2, 1), "shard nothing": lambda: five().shard(9, 7),
        "no shards": lambda: five().shard(value(0), 0), "shard outside": lambda: five().shard(2, value(3)),
        "options": lambda: five().with_options(_options()), "unique": lambda: _unique(),
        "assert": lambda: five().apply(tf_data.experimental.assert_cardinality(5)),
        "assert more": lambda: Data.range(2).apply(tf_data.experimental.assert_cardinality(3)),
        "assert fewer": lambda: Data.range(2).apply(tf_data.experimental.assert_cardinality(1)),
        "ignore errors": lambda: Data.range(3).map(checked).ignore_errors(),
    }


def _options() -> Any:
    options = tf_data.Options()
    options.deterministic = False
    options.experimental_optimization.map_fusion = True
    return options


def _unique() -> Any:
    return Data.from_tensor_slices(["a", "b", "a", "c", "b"]).unique()


@pipelines
def functions() -> dict[str, Callable[[], Any]]:
    def looped(x: Any) -> Any:
        return tf.while_loop(lambda i, s: i < x, lambda i, s: (i + 1, s + i), [tf.constant(0, tf.int64), x])[1]

    def branched(x: Any) -> Any:
        return tf.cond(x > 2, lambda: x * 10, lambda: -x)

    def captured() -> Any:
        outside = value([10, 20])
        return Data.range(2).map(lambda x: outside[x] + x)

    return {
        "map": lambda: Data.range(4).map(lambda x: x * x), "captured": captured,
        "map to several": lambda: Data.range(2).map(lambda x: (x, tf.strings.as_string(x), {"k": [x, x]})),
        "map of several": lambda: Data.zip((Data.range(3), Data.range(3))).map(lambda a, b: a * 10 + b),
        "loop": lambda: Data.range(5).map(looped), "branch": lambda: Data.range(5).map(branched),
        "nested structure": lambda: Data.from_tensors({"a": 1}).map(lambda x: {"b": x["a"] + 1}),
        "parallel map": lambda: Data.range(20).map(lambda x: x + 1, num_parallel_calls=3),
        "tuned map": lambda: Data.range(20).map(lambda x: x + 1, num_parallel_calls=AUTOTUNE),
        "filter": lambda: Data.range(10).filter(lambda x: x % 3 > 0),
        "filter all": lambda: Data.range(10).filter(lambda x: x < 0),
        "take while": lambda: Data.range(10).take_while(lambda x: x < 3),
        "scan": lambda: Data.range(5).scan(np.int64(1), lambda s, x: (s + x, s * x)),
        "string function": lambda: Data.from_tensor_slices(["a,b", "", "c"]).map(lambda s: tf.strings.length(s)),
        "failing map": lambda: Data.range(3).map(checked), "failing parallel map": lambda: Data.range(3).map(
            checked, num_parallel_calls=2),
        "failing filter": lambda: Data.range(3).filter(lambda x: checked(x) > 0),
        "failing flat map": lambda: Data.range(3).flat_map(lambda x: Data.from_tensors(checked(x))),
        "failing inside": lambda: Data.range(3).flat_map(lambda x: Data.from_tensors(x).map(checked)),
        "failing repeated": lambda: Data.range(2).map(checked).repeat(2),
        "failing prefetched": lambda: Data.range(3).map(checked).prefetch(2),
        "failing cached": lambda: Data.range(3).map(checked).cache(),
        "failing zipped": lambda: Data.zip((Data.range(3).map(checked), Data.range(3))),
        "failing shuffled": lambda: Data.range(3).map(checked).shuffle(2, seed=1),
        "failing batch": lambda: unfused(Data.range(5).map(checked)).batch(2),
        "vector predicate": lambda: Data.range(1).filter(lambda x: tf.placeholder_with_default([True, False], None)),
        "no parallel calls": lambda: Data.range(1).map(lambda x: x, num_parallel_calls=value(0)),
        "random numbers": lambda: Data.range(4).map(lambda x: tf.random.uniform([], seed=5)),
        "random numbers repeated": lambda: Data.range(2).map(lambda x: tf.random.uniform([], seed=5)).repeat(2),
    }


@pipelines
def batches() -> dict[str, Callable[[], Any]]:
    def lengths(*sizes: int) -> Any:
        return unfused(Data.from_tensor_slices(list(sizes)).map(lambda n: tf.fill([n], n)))

    return {
        "batch": lambda: Data.range(7).batch(3), "batch whole": lambda: Data.range(7).batch(3, drop_remainder=True),
        "batch nothing": lambda: Data.range(0).batch(3),
        "batch strings": lambda: Data.from_tensor_slices(["a", "bc", ""]).batch(2),
        "batch several": lambda: Data.from_tensor_slices((np.arange(6.0).reshape(3, 2), [True, False, True])).batch(2),
        "batch of batches": lambda: Data.range(8).batch(2).batch(2),
        "parallel batch": lambda: Data.range(7).batch(3, num_parallel_calls=2),
        "map and batch": lambda: Data.range(7).apply(tf.data.experimental.map_and_batch(lambda x: x * 2, 3)),
        "unbatch": lambda: Data.from_tensor_slices((np.arange(6).reshape(3, 2), [[1, 2], [3, 4], [5, 6]])).unbatch(),
        "padded": lambda: lengths(1, 3, 2, 0).padded_batch(2, [None]),
        "padded to": lambda: lengths(1, 3).padded_batch(2, [4], padding_values=-1),
        "padded strings": lambda: Data.from_tensor_slices(["a b", "c"]).map(
            lambda s: tf.strings.split([s]).values).padded_batch(2, [None], padding_values="-"),
        "padded whole": lambda: lengths(1, 2, 3).padded_batch(2, [None], drop_remainder=True),
        "padded too little": lambda: lengths(1, 3).padded_batch(2, [2]),
        "different shapes": lambda: lengths(1, 2, 1).batch(2),
        "batch of 0": lambda: Data.range(5).batch(value(0)), "batch of -1": lambda: Data.range(5).batch(value(-1)),
        "batch of two": lambda: Data.range(5).batch(value([1, 2])),
        "padded of 0": lambda: lengths(1).padded_batch(value(0), [None]),
        "padded by -2": lambda: lengths(1).padded_batch(2, value([-2])),
        "padded by another rank": lambda: Data.range(2).map(
            lambda x: tf.placeholder_with_default(tf.zeros([2]), None)).padded_batch(2, [2, 2]),
        "windows": lambda: Data.range(7).window(3, 2, 2).flat_map(lambda w: w.batch(3)),
        "whole windows": lambda: Data.range(7).window(3, 1, 2, drop_remainder=True).flat_map(lambda w: w.batch(3)),
        "distant windows": lambda: Data.range(9).window(2, 4).flat_map(lambda w: w.batch(3)),
        "windows of several": lambda: Data.zip((Data.range(4), Data.range(4, 8))).window(2).flat_map(
            lambda a, b: Data.zip((a, b.skip(1)))),
        "window of 0": lambda: Data.range(7).window(value(0)),
        "window shift": lambda: Data.range(7).window(2, value(0)),
        "window stride": lambda: Data.range(7).window(2, 1, value(0)),
        "groups": lambda: Data.range(9).group_by_window(lambda x: x % 3, lambda k, d: d.batch(2), window_size=2),
        "buckets": lambda: lengths(1, 3, 1, 4, 2, 1).bucket_by_sequence_length(
            lambda x: tf.shape(x)[0], [2, 4], [2, 2, 1]),
    }


@pipelines
def interleaves() -> dict[str, Callable[[], Any]]:
    def counted(cycle: Any, block: Any, sizes: Any = (3, 0, 1, 5, 2, 2), **more: Any) -> Any:
        return Data.from_tensor_slices(np.array(sizes, np.int64)).enumerate().interleave(
            lambda i, n: Data.range(i * 10, i * 10 + n), cycle, block, **more)

    found = {
        "flat map": lambda: Data.range(4).flat_map(lambda x: Data.range(x)),
        "flat map of nothing": lambda: Data.range(4).flat_map(lambda x: Data.range(0)),
        "cycle of 0": lambda: counted(value(0), 1), "block of 0": lambda: counted(2, value(0)),
        "parallel cycle of 0": lambda: counted(value(0), 1, num_parallel_calls=2),
        "parallel block of 0": lambda: counted(2, value(0), num_parallel_calls=2),
        "no parallel calls": lambda: counted(2, 1, num_parallel_calls=value(0)),
        "choose": lambda: Data.choose_from_datasets(
            [Data.range(3), Data.range(10, 13)], Data.from_tensor_slices(np.array([1, 0, 0, 1, 0, 1, 1, 0], np.int64))),
        "choose until empty": lambda: Data.choose_from_datasets(
            [Data.range(1), Data.range(10, 13)], Data.range(2).repeat(), stop_on_empty_dataset=True),
        "choose outside": lambda: Data.choose_from_datasets([Data.range(3)], Data.range(2)),
        "failing interleave": lambda: Data.range(3).interleave(lambda x: Data.from_tensors(checked(x)), 2),
    }
    for cycle in (1, 2, 3, 9):
        for block in (1, 2, 4):
            found[f"cycle {cycle} block {block}"] = lambda c=cycle, b=block: counted(c, b)
            found[f"parallel cycle {cycle} block {block}"] = lambda c=cycle, b=block: counted(
                c, b, num_parallel_calls=2, deterministic=True)
            found[f"legacy cycle {cycle} block {block}"] = lambda c=cycle, b=block: Data.from_tensor_slices(
                np.array((3, 0, 1, 5, 2, 2), np.int64)).enumerate().apply(tf.data.experimental.parallel_interleave(
                    lambda i, n: Data.range(i * 10, i * 10 + n), c, b))
    return found


@pipelines
def shuffles() -> dict[str, Callable[[], Any]]:
    nine = lambda: Data.range(9)  # noqa: E731
    return {
        "shuffle": lambda: nine().shuffle(4, seed=3), "shuffle one": lambda: nine().shuffle(1, seed=3),
        "shuffle much": lambda: nine().shuffle(100, seed=3),
        "shuffle all": lambda: nine().shuffle(value(-2), seed=3),
        "graph seed": lambda: nine().shuffle(9),
        "shuffle repeated": lambda: nine().shuffle(4, seed=3).repeat(3),
        "shuffle repeated whole": lambda: nine().shuffle(20, seed=3).repeat(3),
        "same each time": lambda: nine().shuffle(4, seed=3, reshuffle_each_iteration=False).repeat(3),
        "repeated shuffle": lambda: Data.range(3).repeat(4).shuffle(5, seed=3),
        "shuffle and repeat": lambda: nine().apply(tf.data.experimental.shuffle_and_repeat(4, 3, seed=3)),
        "shuffle and repeat whole": lambda: Data.range(3).apply(
            tf.data.experimental.shuffle_and_repeat(50, 9, seed=3)),
        "shuffle and repeat forever": lambda: Data.range(5).apply(
            tf.data.experimental.shuffle_and_repeat(3, seed=3)).take(20),
        "shuffle nothing forever": lambda: Data.range(0).apply(tf.data.experimental.shuffle_and_repeat(3, seed=3)),
        "twice": lambda: nine().shuffle(4, seed=3).shuffle(4, seed=4),
        "shuffled inside": lambda: Data.range(3).interleave(lambda x: Data.range(5).shuffle(3, seed=2), 2),
        "shuffled inside, repeated": lambda: Data.range(2).flat_map(
            lambda x: Data.range(5).shuffle(3, seed=2).repeat(2)),
        "cached": lambda: nine().shuffle(4, seed=3).cache().repeat(2),
        "batches": lambda: nine().shuffle(4, seed=3).batch(4).repeat(2),
        "buffer of 0": lambda: nine().shuffle(value(0)), "buffer of -1": lambda: nine().shuffle(value(-1)),
        "sampled": lambda: Data.sample_from_datasets([Data.range(5), Data.range(10, 15)], [0.3, 0.7], seed=3),
    }


@pipelines
def buffers() -> dict[str, Callable[[], Any]]:
    return {
        "prefetch": lambda: Data.range(20).prefetch(3), "prefetch one": lambda: Data.range(5).prefetch(1),
        "prefetch none": lambda: Data.range(5).prefetch(0), "prefetch tuned": lambda: Data.range(5).prefetch(AUTOTUNE),
        "prefetch wrongly": lambda: Data.range(5).prefetch(value(-5)),
        "prefetch twice": lambda: Data.range(9).prefetch(2).map(lambda x: x + 1).prefetch(2).batch(2).prefetch(1),
        "cache": lambda: Data.range(3).map(lambda x: x + 1).cache().repeat(2),
        "cache of part": lambda: Data.range(5).cache().take(2).repeat(2),
        "cache inside": lambda: Data.range(2).flat_map(lambda x: Data.range(2).cache().repeat(2)),
        "long": lambda: Data.range(1000).map(lambda x: x * 2).shuffle(50, seed=1).batch(100).prefetch(2),
    }


def records(name: str, compression: str = "") -> str:
    path = os.path.join(FILES, name)
    with tf.io.TFRecordWriter(path, options=compression) as writer:
        for record in (b"one", b"", b"three" * 100):
            writer.write(record)
    return path


@pipelines
def files() -> dict[str, Callable[[], Any]]:
    one, two = records("one.tfrecord"), records("two.tfrecord", "GZIP")
    three = records("three.tfrecord", "ZLIB")
    damaged = write("damaged.tfrecord", Path(one).read_bytes()[:-7])
    lines = write("lines.txt", b"a\r\nb\n\nlast")
    packed = write("lines.gz", gzip.compress(b"a\nb\n"))
    fixed, cut = write("fixed", b"HHaabbccF"), write("cut", b"HHaabbcF")
    missing = os.path.join(FILES, "missing")
    fixed_length = tf.data.FixedLengthRecordDataset
    return {
        "records": lambda: tf.data.TFRecordDataset([one, one]), "gzip": lambda: tf.data.TFRecordDataset(two, "GZIP"),
        "zlib": lambda: tf.data.TFRecordDataset(three, "ZLIB"),
        "read in turn": lambda: tf.data.TFRecordDataset([one, one], num_parallel_reads=2),
        "damaged": lambda: tf.data.TFRecordDataset([damaged, one]),
        "missing": lambda: tf.data.TFRecordDataset([one, missing, one]),
        "not packed": lambda: tf.data.TFRecordDataset(one, "GZIP"),
        "lines": lambda: tf.data.TextLineDataset([lines, lines]).skip(1),
        "packed lines": lambda: tf.data.TextLineDataset(packed, "GZIP"),
        "unknown packing": lambda: tf.data.TextLineDataset(lines, "LZ"),
        "interleaved lines": lambda: Data.from_tensor_slices([lines, lines]).interleave(
            lambda path: tf.data.TextLineDataset(path).enumerate(), 2, 1, num_parallel_calls=2),
        "fixed": lambda: fixed_length(fixed, 2, 2, 1), "cut": lambda: fixed_length([cut], 2, 2, 1),
        "length of 0": lambda: fixed_length(fixed, 0), "footer of -1": lambda: fixed_length(fixed, 1, 0, -1),
        "list of files": lambda: Data.list_files(os.path.join(FILES, "*.txt"), shuffle=False).map(
            lambda path: tf.strings.split([path], "/").values[-1]),
    }


@check
def examples(target: str) -> Any:
    """Features of Examples in batches, read by the functions that make whole pipelines of files."""
    path = os.path.join(FILES, "examples.tfrecord")
    with tf.io.TFRecordWriter(path) as writer:
        for number in range(5):
            feature = {
                "number": tf.train.Feature(int64_list=tf.train.Int64List(value=[number])),
                "words": tf.train.Feature(bytes_list=tf.train.BytesList(value=[b"w"] * number)),
                "pair": tf.train.Feature(float_list=tf.train.FloatList(value=[number, 0.5] if number != 3 else [])),
            }
            example = tf.train.Example(features=tf.train.Features(feature=feature))
            writer.write(example.SerializeToString())
    features = {"number": tf.FixedLenFeature([], tf.int64), "words": tf.VarLenFeature(tf.string),
                "pair": tf.FixedLenFeature([2], tf.float32, [7.0, 8.0])}
    seen = []
    for wanted in (features, {**features, "missing": tf.FixedLenFeature([], tf.int64)}):
        with tf.Graph().as_default() as graph:
            made = tf.data.experimental.make_batched_features_dataset(
                path, 2, wanted, num_epochs=1, shuffle=False, reader_num_threads=1)
            following = tf.data.make_one_shot_iterator(made).get_next()
            with session(target, graph) as client:
                for _ in range(4):
                    try:
                        found = client.run(following)
                    except tf.errors.OpError as error:
                        seen.append(failure_of(error))
                    else:
                        seen.append({name: plain(list(value) if isinstance(value, tuple) else value)
                                     for name, value in found.items()})
    return seen


@check
def cache_files(target: str) -> Any:
    """Cache into files; the second reading finds them, a third reads what TensorFlow wrote itself."""
    folder = tempfile.mkdtemp(dir=FILES)
    path = os.path.join(folder, "cache")

    def cached() -> Any:
        return Data.range(3).map(lambda x: (x, tf.strings.as_string(x))).cache(path)

    first = read(target, cached)
    names = sorted(os.listdir(folder))
    second = read(target, lambda: Data.from_tensors((np.int64(0), "")).cache(path).repeat(2))
    stored = {name: plain(tf.train.load_variable(path, name)) for name, _ in tf.train.list_variables(path)}
    Path(f"{path}2_0.lockfile").touch()
    locked = read(target, lambda: Data.range(3).cache(f"{path}2"), most=1)
    locked[0]["message"] = locked[0]["message"].replace(folder, "")
    read("", lambda: Data.range(3).map(lambda x: x * 7).cache(f"{path}3"))  # TensorFlow in this process
    foreign = read(target, lambda: Data.range(1).cache(f"{path}3"))
    return [first, names, second, stored, locked, foreign]


@check
def iterators(target: str) -> Any:
    """Every kind of iterator, and what goes wrong with them."""
    seen: dict[str, Any] = {}
    raw = tf.raw_ops
    with tf.Graph().as_default() as graph:
        once = tf.data.make_one_shot_iterator(Data.range(3)).get_next()
        size = tf.placeholder(tf.int64, [])
        fed = tf.data.make_initializable_iterator(Data.range(size))
        fed_next = fed.get_next()
        either = tf.data.Iterator.from_structure(tf.int64, [])
        either_next = either.get_next()
        starts = [either.make_initializer(Data.range(2)), either.make_initializer(Data.range(10, 12).map(lambda x: -x))]
        text = tf.placeholder(tf.string, [])
        chosen = tf.data.Iterator.from_string_handle(text, tf.int64, [])
        chosen_next = chosen.get_next()
        handles = [tf.data.make_one_shot_iterator(Data.range(100, 103)).string_handle(), fed.string_handle()]
        other = raw.IteratorFromStringHandleV2(string_handle=text, output_types=[tf.int32], output_shapes=[[]])
        longer = raw.IteratorFromStringHandleV2(string_handle=text, output_types=[tf.int64], output_shapes=[[3]])
        makers = [
            raw.MakeIterator(dataset=Data.range(2)._variant_tensor, iterator=raw.IteratorV2(
                shared_name="", container="", output_types=types, output_shapes=shapes))
            for types, shapes in (([tf.int32], [[]]), ([tf.int64, tf.int64], [[], []]), ([tf.int64], [[2]]))]
        nothing = raw.MakeIterator(dataset=raw.OptionalNone(), iterator=fed._iterator_resource)
        maybe = tf_data.experimental.get_next_as_optional(fed)
        there = maybe.has_value()
        maybe_value = [there, tf.cond(there, maybe.get_value, lambda: tf.constant(-1, tf.int64))]
        shared = tf.data.make_initializable_iterator(Data.range(5), shared_name="shared_by_all")
        shared_next = shared.get_next()
        with session(target, graph) as client, session(target, graph) as second:
            seen["one shot"] = [plain(client.run(once)) for _ in range(3)]
            seen["one shot end"] = [failure(client.run, once), failure(client.run, once)]
            seen["one shot elsewhere"] = plain(second.run(once))
            seen["too early"] = failure(client.run, fed_next)
            client.run(fed.initializer, {size: 2})
            seen["fed"] = [plain(client.run(fed_next)) for _ in range(2)]
            seen["fed end"] = failure(client.run, fed_next)
            client.run(fed.initializer, {size: 1})
            seen["fed again"] = plain(client.run(fed_next))
            seen["elsewhere"] = failure(second.run, fed_next)
            for start in (0, 1, 0):
                client.run(starts[start])
                seen.setdefault("either", []).append([plain(client.run(either_next)) for _ in range(2)])
            names = client.run(handles)
            client.run(fed.initializer, {size: 5})
            order = [0, 1, 1, 0, 1]
            seen["chosen"] = [plain(client.run(chosen_next, {text: names[which]})) for which in order]
            seen["foreign handle"] = plain(second.run(chosen_next, {text: names[1]}))
            seen["bad handles"] = [failure(client.run, chosen_next, {text: bad}) for bad in (b"garbage", b"")]
            seen["other types"] = [failure(client.run, made.op, {text: names[1]}) for made in (other, longer)]
            seen["makers"] = [failure(client.run, made) for made in makers]
            seen["no dataset"] = failure(client.run, nothing)
            client.run(fed.initializer, {size: 1})
            seen["optional"] = [plain(client.run(maybe_value)) for _ in range(2)]
            client.run(shared.initializer)
            seen["shared"] = [plain(one.run(shared_next)) for one in (client, second, client)]
    return seen


@check
def variables_and_state(target: str) -> Any:
    """Functions that read and change what lies outside of them."""
    seen: dict[str, Any] = {}
    with tf.Graph().as_default() as graph:
        factor = tf.get_variable("factor", initializer=np.int64(3), use_resource=True)
        counter = tf.get_variable("counter", initializer=np.int64(0), use_resource=True)
        table = tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer(
            tf.constant(["a", "b"]), tf.constant([1, 2], tf.int64)), -1)

        def counted(x: Any) -> Any:
            return x * factor + counter.assign_add(1)

        iterator = tf.data.make_initializable_iterator(Data.range(20).map(counted))
        looked_up = tf.data.make_initializable_iterator(Data.from_tensor_slices(["b", "c", "a"]).map(table.lookup))
        queue = tf.FIFOQueue(5, tf.int64, shapes=[()])
        taken = tf.data.make_initializable_iterator(Data.range(3).map(lambda x: x + queue.dequeue()))
        random = Data.range(3).map(lambda x: tf.random.uniform([], seed=5))
        drawn = tf.data.make_initializable_iterator(random.repeat(2))
        following = [iterator.get_next(), looked_up.get_next(), taken.get_next(), drawn.get_next()]
        put = queue.enqueue_many([np.array([10, 20, 30], np.int64)])
        with session(target, graph) as client:
            client.run([tf.global_variables_initializer(), tf.tables_initializer()])
            client.run([iterator.initializer, looked_up.initializer, taken.initializer])
            seen["variable"] = [plain(client.run(following[0])) for _ in range(3)]
            seen["table"] = [plain(client.run(following[1])) for _ in range(3)]
            client.run(put)
            seen["queue"] = [plain(client.run(following[2])) for _ in range(3)]
            for _ in range(2):
                client.run(drawn.initializer)
                seen.setdefault("drawn", []).append([plain(client.run(following[3])) for _ in range(6)])
    return seen


@check
def whole_datasets(target: str) -> Any:
    """Nodes that read a dataset to its end, and what is known without reading."""
    seen: dict[str, Any] = {}
    sets = {
        "range": Data.range, "batch": lambda n: Data.range(n).batch(3),
        "whole batch": lambda n: Data.range(n).batch(3, drop_remainder=True),
        "repeat": lambda n: Data.range(n).repeat(2), "forever": lambda n: Data.range(n).repeat(),
        "filter": lambda n: Data.range(n).filter(lambda x: True), "map": lambda n: Data.range(n).map(lambda x: x),
        "take": lambda n: Data.range(n).take(4), "skip": lambda n: Data.range(n).skip(4),
        "zip": lambda n: Data.zip((Data.range(n), Data.range(n).repeat())),
        "concatenate": lambda n: Data.range(n).concatenate(Data.range(n)), "shard": lambda n: Data.range(n).shard(3, 1),
        "window": lambda n: Data.range(n).window(3, 2), "whole window": lambda n: Data.range(n).window(
            3, 2, drop_remainder=True), "shuffle": lambda n: Data.range(n).shuffle(2),
        "cache": lambda n: Data.range(n).cache(), "prefetch": lambda n: Data.range(n).prefetch(2),
        "flat map": lambda n: Data.range(n).flat_map(lambda x: Data.range(2)),
        "unbatch": lambda n: Data.range(n).batch(2, drop_remainder=True).unbatch(),
        "lines": lambda n: tf.data.TextLineDataset("nowhere"),
    }
    with tf.Graph().as_default() as graph:
        sizes = {name: [tf_data.experimental.cardinality(make(n)) for n in (0, 7)] for name, make in sets.items()}
        total = tf_data.Dataset.range(5).reduce(np.int64(3), lambda s, x: s + x)
        pair = Data.range(4).reduce((np.int64(0), 1.0), lambda s, x: (s[0] + x, s[1] * 2.0))
        failing = Data.range(3).reduce(0.0, lambda s, x: s + checked(x))
        only = [tf_data.experimental.get_single_element(Data.range(n)) for n in (1, 0, 2)]

        @tf.function
        def summed(n: Any) -> Any:
            result = tf.constant(0, tf.int64)
            for x in tf_data.Dataset.range(n).shuffle(3):
                result += x
            return result

        @tf.function
        def second_of(n: Any) -> Any:
            iterator = iter(tf_data.Dataset.range(n).map(lambda x: x * 7))
            next(iterator)
            return next(iterator)

        calls = [summed(np.int64(10)), second_of(np.int64(10))]
        with session(target, graph) as client:
            seen["cardinality"] = plain(client.run(sizes))
            seen["reduce"] = plain(client.run([total, pair]))
            seen["failing reduce"] = failure(client.run, failing)
            seen["only"] = [plain(client.run(only[0])), failure(client.run, only[1]), failure(client.run, only[2])]
            seen["in functions"] = plain(client.run(calls))
    return seen


if __name__ == "__main__":
    main()
