"""Datasets of CSV files, of ragged tensors and of what functions generate."""

from __future__ import annotations

import gzip
import os
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow.compat.v1 as tf
from checks import check, failure, main, plain, session
from pipelines import FILES, failure_of, pipelines, write
from tensorflow import data as tf_data
from tensorflow.python.framework import function

Data = tf.data.Dataset


@pipelines
def csv_files() -> dict[str, Callable[[], Any]]:
    """Records of every shape, and what is no record."""
    whole, real, string = tf.int32, tf.float32, tf.string
    filler = [[7], 8]

    def csv(name: str, content: bytes | list[bytes], defaults: Any, **options: Any) -> tuple[str, Callable[[], Any]]:
        contents = content if isinstance(content, list) else [content]
        paths = [write(f"{name} {number}.csv", part) for number, part in enumerate(contents)]
        return name, lambda: tf_data.experimental.CsvDataset(paths, defaults, **options)

    pair, texts = [whole, whole], [string, string]
    selections = b"1,2,3\n4,5\n7,8,9,10\n"
    made = [
        csv("numbers", b"1,2\r\n 3 ,+4\r5,-6", pair), csv("empty", b"", pair), csv("no lines", b"\n\r\n\r", [["d"]]),
        csv("too few, too many", b"1\n1,2,3\n1,2,\n7,8\n", pair), csv("empty line", b"1,2\n\n3,4\n", pair),
        csv("missing", b"1,\n,4\n", pair), csv("filled", b"1,\n,4\n", filler),
        csv("no numbers", b"1,x\n1.0,2\n99999999999,2\nx,1,2\nx\n \n1_0,2\n8,9\n", pair),
        csv("reals", b"1.5,0x10\n nan,-inf\n1e400,1e39\n1f,1\n1_0,2\n", [real, tf.float64]),
        csv("longs", b"99999999999,1\n99999999999999999999,2\n", [tf.int64, real]),
        csv("quoted", b'"a","b"\n"c,d","e\nf\r\ng"\r\n"g""h",i\n"""","""a"""\n"",\n', [["z"], ["y"]]),
        csv("quoted numbers", b'"1"\r"2"\r\n"3"', [whole]), csv("ends in quotes", b'1,"2', texts),
        csv("never closed", [b'"a""\nb,c\n', b'd,e'], texts), csv("never closed number", b'x,"2', pair),
        csv("text behind quotes", b'"a"x",b\n"a"x"y",b\nc,d\n"a"x,b\nc,d\n', texts),
        csv("quotes inside", b'a"x,b\nc,d\na"b,"c"d",e\ne,f\n1,2,"a"x"\ng,h', texts),
        csv("no quotes", b'a"x,"b\nc"\n', [string, ["d"]], use_quote_delim=False),
        csv("no value", b'NA,b\n"NA",c\nNAN,d\n', [["z"], string], na_value="NA"),
        csv("tabs", b"1\t2\n", pair, field_delim="\t"), csv("long delimiter", b"1,2\n", pair, field_delim="ab"),
        csv("headers", [b"h,k\n1,2\n", b"h\n3,4", b"h,k,l", b"", b"x\n5,6", b'"h\n1",2\n7,8'], pair, header=True),
        csv("odd headers", [b'a"b,c\n1,2\n', b'"a"b",c\n3,4\n', b'"a,c\n5,6\n', b"\n7,8"], pair, header=True),
        csv("selected", selections, pair, select_cols=[0, 2]),
        csv("one selected", selections, [whole], select_cols=[1]),
        csv("quotes beside", b'1,x"y,3\n4,5,6\n', [whole], select_cols=[0]),
        csv("selected twice", selections, pair, select_cols=[0, 0]),
        csv("too few selected", selections, pair, select_cols=[1]),
        csv("excluded", selections, pair, exclude_cols=[1]),
        csv("nothing excluded", selections, [whole] * 3, exclude_cols=[9]),
        csv("negative", selections, pair, exclude_cols=[-1]),
        csv("small buffer", b'aaaaaaaa,b\n"c""cc",d\n', texts, buffer_size=1),
        csv("no buffer", selections, pair, buffer_size=0),
        csv("unknown packing", selections, pair, compression_type="LZ"),
        csv("packed", gzip.compress(b"1,2\n3,4\n"), pair, compression_type="GZIP"),
        csv("other bytes", b"\xef\xbb\xbf1,a\x00b\n", texts),
        csv("missing file", b"1,2\n", pair),
    ]
    os.unlink(os.path.join(FILES, "missing file 0.csv"))
    return dict(made)


@pipelines
def ragged_elements() -> dict[str, Callable[[], Any]]:
    """Ragged tensors as elements: a variant each, to which the client has nodes of its own."""
    def parts(*rows: Any) -> Any:
        return tuple((*row.nested_row_splits, row.flat_values) for row in rows)

    def rows(kind: Any = tf.int64) -> Any:
        return tf.cast(tf.ragged.constant([[1, 2], [], [3, 4, 5], [6]]), kind)

    def texts() -> Any:
        return tf.ragged.constant([[["a"], ["b", "c"]], [], [[]], [["d", "e", "f"], []]])

    def shaped() -> Any:
        return tf.RaggedTensor.from_row_splits(tf.reshape(tf.range(12.0), [6, 2]), [0, 1, 1, 6])

    def parsed() -> Any:
        def example(number: int) -> bytes:
            words = tf.train.Feature(bytes_list=tf.train.BytesList(value=[b"w", b"x"] * number))
            one = tf.train.Feature(int64_list=tf.train.Int64List(value=[number]))
            return tf.train.Example(features=tf.train.Features(
                feature={"words": words, "one": one})).SerializeToString()

        features = {"words": tf.io.RaggedFeature(tf.string), "one": tf.FixedLenFeature([], tf.int64)}
        made = Data.from_tensor_slices([example(number) for number in range(4)]).batch(3)
        return made.apply(tf_data.experimental.parse_example_dataset(features)).map(
            lambda found: (found["one"], *parts(found["words"])))

    slices = Data.from_tensor_slices
    return {
        "whole": lambda: Data.from_tensors(rows()).map(parts), "rows": lambda: slices(rows(tf.float16)),
        "nested rows": lambda: slices(texts()).map(parts), "batches": lambda: slices(rows()).batch(3).map(
            lambda batch: parts(batch) if isinstance(batch, tf.RaggedTensor) else batch),
        "batches of nested rows": lambda: slices(texts()).batch(3).map(parts),
        "batches of batches": lambda: slices(texts()).batch(2, drop_remainder=True).batch(2).map(parts),
        "shaped": lambda: slices(shaped()), "shaped batches": lambda: slices(shaped()).apply(
            tf_data.experimental.dense_to_ragged_batch(2)).map(parts),
        "lengths": lambda: slices(texts()).map(lambda row: row.row_lengths()), "ragged batches": lambda: Data.range(
            4).map(tf.range).apply(tf_data.experimental.dense_to_ragged_batch(3)).map(parts),
        "zipped": lambda: Data.zip((slices(rows()), slices(texts()))).map(lambda x, y: (x, *parts(y))),
        "unbatched": lambda: slices(texts()).batch(3).unbatch().map(parts), "parsed": parsed,
    }


@check
def generators(target: str) -> Any:
    """A dataset of what a function makes until it raises OutOfRange; another begins, a third cleans up."""
    seen: dict[str, Any] = {}
    with tf.Graph().as_default() as graph:
        queue = tf.FIFOQueue(20, tf.int64)
        log = tf.Variable(np.zeros(3, np.int64), use_resource=True)
        fill, end = queue.enqueue_many([np.arange(4)]), queue.close()

        @function.Defun(tf.resource, tf.int64)
        def begin(log: Any, first: Any) -> Any:
            with tf.control_dependencies([tf.raw_ops.AssignAddVariableOp(
                    resource=log, value=np.array([1, 0, 0], np.int64))]):
                return first * 10

        @function.Defun(tf.int64, tf.resource)
        def following(state: Any, queue: Any) -> Any:
            taken = tf.raw_ops.QueueDequeueV2(handle=queue, component_types=[tf.int64])[0]
            return state + taken, tf.debugging.check_numerics(1.0 / tf.cast(taken - 2, tf.float32), "bad")

        @function.Defun(tf.int64, tf.resource)
        def last(state: Any, log: Any) -> Any:
            with tf.control_dependencies([tf.raw_ops.AssignAddVariableOp(
                    resource=log, value=tf.stack([0, state, 0]))]):
                return tf.identity(state)

        made = tf.raw_ops.GeneratorDataset(
            init_func_other_args=[log.handle, np.int64(7)], next_func_other_args=[queue.queue_ref],
            finalize_func_other_args=[log.handle], init_func=begin, next_func=following, finalize_func=last,
            output_types=[tf.int64, tf.float32], output_shapes=[[], []])
        iterator = tf.raw_ops.IteratorV2(shared_name="", container="", output_types=[tf.int64, tf.float32],
                                         output_shapes=[[], []])
        start = tf.raw_ops.MakeIterator(dataset=made, iterator=iterator)
        element = tf.raw_ops.IteratorGetNext(iterator=iterator, output_types=[tf.int64, tf.float32],
                                             output_shapes=[[], []])
        size = tf.raw_ops.DatasetCardinality(input_dataset=made)
        with session(target, graph) as client:
            for node in (tf.global_variables_initializer(), fill, end):
                client.run(node)
            seen["cardinality"] = plain(client.run(size))
            client.run(start)
            seen["begun"] = plain(client.run(log))
            elements = seen["elements"] = []
            for _ in range(6):
                try:
                    elements.append(plain(client.run(element)))
                except tf.errors.OpError as error:
                    elements.append(failure_of(error))
            seen["ended"] = plain(client.run(log))
            client.run(start)
            seen["begun again"] = plain(client.run(log))
            for _ in range(2):
                elements.append(failure(client.run, element))
            seen["ended again"] = plain(client.run(log))
    return seen


if __name__ == "__main__":
    main()
