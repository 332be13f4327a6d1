"""What keeps state or calls elsewhere: input pipelines, handles of tensors, critical sections, calls by device."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow.compat.v1 as tf
from checks import Background, check, failure, main, session, skip
from tensorflow.python.framework import function as old_function

tf.disable_eager_execution()

FILES = Path(os.environ.get("TENSOR_RUNTIME_TEST_FILES", "."))


@check
def input_pipeline(target: str) -> Any:
    """Read lines of files in batches, as programs of the first generation do."""
    names = []
    for number in range(3):
        path = FILES / f"lines_{number}.csv"
        path.write_text("".join(f"{number},{line},text {line}\n" for line in range(5)))
        names.append(str(path))
    with tf.Graph().as_default() as graph:
        queue = tf.train.string_input_producer(names, shuffle=False, num_epochs=2)
        reader = tf.TextLineReader(skip_header_lines=1)
        key, line = reader.read(queue)
        batch = tf.train.batch([key, line], 4, allow_smaller_final_batch=True, enqueue_many=False)
        produced = reader.num_records_produced()
        with session(target, graph, isolate_session_state=True) as sess:
            sess.run([tf.global_variables_initializer(), tf.local_variables_initializer()])
            coordinator = tf.train.Coordinator()
            tf.train.start_queue_runners(sess, coordinator)
            seen = []
            try:
                while True:
                    keys, lines = sess.run(batch)
                    seen += [[os.path.basename(name), text] for name, text in zip(keys.tolist(), lines.tolist())]
            except tf.errors.OutOfRangeError:
                pass
            coordinator.request_stop()
            return [[name.decode(), text.decode()] for name, text in seen] + [int(sess.run(produced))]


@check
def records_in_batches(target: str) -> Any:
    path = str(FILES / "records")
    with tf.io.TFRecordWriter(path, "GZIP") as writer:
        for number in range(10):
            writer.write(b"record %d" % number)
    with tf.Graph().as_default() as graph:
        queue = tf.FIFOQueue(10, tf.string, shapes=[()])
        put, close = queue.enqueue_many([[path, path]]), queue.close()
        reader = tf.TFRecordReader(options=tf.io.TFRecordOptions("GZIP"))
        keys, records = reader.read_up_to(queue, 7)
        with session(target, graph) as sess:
            waiting = Background(sess.run, records)
            sess.run(put)
            sess.run(close)
            seen = [waiting.result(), *(sess.run(records) for _ in range(3))]
            error = failure(sess.run, keys)
            return [[len(items) for items in seen], seen[0], error["code"]]


@skip("tensorflow")
@check
def tensors_under_handles(target: str) -> Any:
    """Only ours: TensorFlow's remote master keeps none."""
    with tf.Graph().as_default() as graph:
        x = tf.placeholder(tf.float32, [None], name="x")
        handle_of = tf.get_session_handle(x * 2.0)
        holder, tensor = tf.get_session_tensor("any;0;/device:CPU:0", tf.float32)
        doubled = tensor + 1.0
        deleter_holder, deleter = tf.delete_session_tensor("any;0;/device:CPU:0")
        with session(target, graph) as sess:
            handle = sess.run(handle_of, {x: [1.0, 2.0]})
            raw = handle.handle
            seen = [sess.run(doubled, {holder: raw}), handle.eval()]
            sess.run(deleter, {deleter_holder: raw})
            gone = failure(sess.run, doubled, {holder: raw})
            handle.get_raw_handle()  # the client would delete it once more
            return [seen, gone["code"], "is not in the session store" in gone["message"]]


@check
def critical_section(target: str) -> Any:
    """Steps that run at once add to a variable one after the other."""
    with tf.Graph().as_default() as graph:
        v = tf.get_variable("v", initializer=0.0, use_resource=True)
        section = tf.CriticalSection(name="section", shared_name="section of state_tf")

        def work() -> Any:
            before = v.read_value()
            with tf.control_dependencies([tf.raw_ops.Timestamp()]):
                return v.assign(before + 1.0).op

        step = section.execute(work)
        with session(target, graph, isolate_session_state=True) as sess:
            sess.run(v.initializer)

            def many() -> None:
                for _ in range(20):
                    sess.run(step)

            threads = [threading.Thread(target=many) for _ in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(20.0)
            return sess.run(v)


def _tables() -> Any:
    """Return a hash table and a dense one, both in checkpoints, and what looks up in them."""
    plain = tf.lookup.experimental.MutableHashTable(tf.string, tf.int64, -1, name="plain", checkpoint=True)
    dense = tf.lookup.experimental.DenseHashTable(tf.string, tf.float32, [-1.0, -1.0], "", "deleted", name="dense",
                                                  initial_num_buckets=8, checkpoint=True)
    keys = tf.placeholder(tf.string, [None], name="keys")
    numbers = tf.placeholder(tf.int64, [None], name="numbers")
    rows = tf.stack([tf.cast(numbers, tf.float32), tf.cast(numbers, tf.float32) * 0.5], axis=1)
    puts = [plain.insert(keys, numbers), dense.insert(keys, rows)]
    removes = [plain.remove(keys), dense.remove(keys)]
    return puts, removes, [plain.lookup(keys), dense.lookup(keys), plain.size(), dense.size()]


WORDS = [f"word {number}" for number in range(40)]


@check
def save_tables(target: str) -> Any:
    with tf.Graph().as_default() as graph:
        puts, removes, lookups = _tables()
        saver = tf.train.Saver()
        with session(target, graph, isolate_session_state=True) as sess:
            sess.run(puts, {"keys:0": WORDS, "numbers:0": range(40)})
            sess.run(removes, {"keys:0": WORDS[::7]})
            saver.save(sess, str(FILES / f"tables_{target.rpartition(':')[2]}"), write_meta_graph=False)
            return sess.run(lookups, {"keys:0": WORDS})


@check
def restore_tables(target: str) -> Any:
    """Restore what both servers have saved; the dense table is probed, and grows."""
    seen = []
    for path in sorted(FILES.glob("tables_*.index")):
        with tf.Graph().as_default() as graph:
            puts, _, lookups = _tables()
            saver = tf.train.Saver()
            with session(target, graph, isolate_session_state=True) as sess:
                sess.run(puts, {"keys:0": ["gone"], "numbers:0": [1]})
                saver.restore(sess, str(path.with_suffix("")))
                seen.append(sess.run(lookups, {"keys:0": [*WORDS, "gone"]}))
                sess.run(puts, {"keys:0": [f"more {number}" for number in range(60)], "numbers:0": range(60)})
                seen.append(sess.run(lookups, {"keys:0": [*WORDS, "more 59"]}))
    return seen


@old_function.Defun(tf.float32, func_name="Tripled")
def tripled(x: Any) -> Any:
    return 3.0 * x


@check
def remote_calls(target: str) -> Any:
    with tf.Graph().as_default() as graph:
        tripled.add_to_graph(graph)
        where = tf.placeholder(tf.string, [], name="where")
        (called,) = tf.raw_ops.RemoteCall(target=where, args=[tf.constant(2.0)], Tout=[tf.float32], f=tripled)
        task = "/job:localhost/replica:0/task:0"
        with session(target, graph) as sess:
            good = [sess.run(called, {where: name}) for name in ("", "/cpu:0", task, f"{task}/device:CPU:0")]
            elsewhere = ("garbage", "/job:worker/task:5/cpu:0", "/cpu:7")
            bad = [failure(sess.run, called, {where: name}) for name in elsewhere]
            return [good, [error["code"] for error in bad], [error["message"] for error in bad[:2]]]


@check
def symbolic_gradients(target: str) -> Any:
    @old_function.Defun(tf.float32, tf.float32, func_name="Curve")
    def curve(x: Any, y: Any) -> Any:
        z = tf.matmul(x, y)
        return tf.reduce_sum(tf.tanh(z) * z), tf.square(x)

    @old_function.Defun(tf.float32, tf.float32, func_name="OwnGradient")
    def own_gradient(x: Any, dy: Any) -> Any:
        return dy * x * 100.0

    @old_function.Defun(tf.float32, func_name="WithOwnGradient", grad_func=own_gradient)
    def with_own(x: Any) -> Any:
        return tf.square(x)

    with tf.Graph().as_default() as graph:
        x = tf.placeholder(tf.float32, [2, 2], name="x")
        y = tf.constant([[0.5, -1.0], [0.25, 2.0]])
        total, squares = curve(x, y)
        derived = tf.gradients([total, squares], [x, y])
        own = tf.gradients(with_own(x), x)
        with session(target, graph) as sess:
            return sess.run([derived, own], {x: np.array([[1.0, 2.0], [-0.5, 0.25]], np.float32)})


@check
def calls_of_the_client(target: str) -> Any:
    with tf.Graph().as_default() as graph:
        (called,) = tf.raw_ops.PyFunc(input=[tf.constant(1.0)], token="nobody has this", Tout=[tf.float32])
        with session(target, graph) as sess:
            error = failure(sess.run, called)
            return [error["code"], error["message"].split("\n")[1]]


if __name__ == "__main__":
    main()
