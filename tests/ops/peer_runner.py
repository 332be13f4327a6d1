"""Run by the peer's interpreter: evaluate the cases of some files with TensorFlow's own kernels.

Arguments are pairs of a file of cases, as `tests.ops.case.write_cases` writes it, and the file for the answers, which
`read_answers` there reads: per case what each run gave as JSON, then the fetched tensors in order.
"""

import json
import pathlib
import re
import struct
import sys

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import graph_pb2, tensor_pb2
from tensorflow.python.framework import dtypes, tensor_util

CONFIG = tf.compat.v1.ConfigProto(inter_op_parallelism_threads=1, intra_op_parallelism_threads=1)
CONFIG.graph_options.rewrite_options.disable_meta_optimizer = True
CONFIG.graph_options.optimizer_options.opt_level = -1
NODE_MARK = re.compile(r"\n\t \[\[\{\{node (?P<name>[^}]*)\}\}\]\]")


def decode(message):
    if message.dtype == dtypes.string.as_datatype_enum:
        shape = [dim.size for dim in message.tensor_shape.dim]
        result = np.empty(shape, object)
        result.reshape(-1)[:] = list(message.string_val)
        return result
    return tensor_util.MakeNdarray(message)


def encode(value, kind):
    if isinstance(value, bytes):  # numpy would drop zero bytes at the end
        value = np.array(value, object)
    value = np.asarray(value)
    message = tensor_pb2.TensorProto(dtype=kind)
    for dim in value.shape:
        message.tensor_shape.dim.add().size = dim
    if kind == dtypes.string.as_datatype_enum:
        message.string_val.extend(item if isinstance(item, bytes) else getattr(item, "handle", item).encode()
                                  for item in value.reshape(-1))  # the client wraps handles of session tensors
    else:
        message.tensor_content = np.ascontiguousarray(value).tobytes()
    return message


def kernel_text(error):
    """Return what the kernel said: without where the node was defined, and without the client's heading."""
    text = error.message
    if "\nNode: " in text:
        text = text.split("\nNode: ", 1)[1].split("\n", 1)[1]
    text = text.split("\n\nOriginal stack trace", 1)[0].removeprefix("Graph execution error:\n\n")
    return NODE_MARK.sub("", text)


def run_all(frames):
    runs = json.loads(frames[1])
    feeds = iter(frames[2:])
    graph = tf.Graph()
    try:
        with graph.as_default():
            tf.import_graph_def(graph_pb2.GraphDef.FromString(frames[0]), name="")
    except Exception as error:
        return [json.dumps([{"code": 3, "text": f"import: {error}", "count": 0}] * len(runs)).encode()]
    outcomes, tensors = [], []
    with tf.compat.v1.Session(graph=graph, config=CONFIG) as session:
        for run in runs:
            fed = {name: decode(tensor_pb2.TensorProto.FromString(next(feeds))) for name in run["feeds"]}
            targets = [graph.get_operation_by_name(name) for name in run["targets"]]
            try:
                fetched, _ = session.run([run["fetches"], targets], fed)
            except Exception as caught:
                # The client looks for node names in the text, and fails itself where a kernel's words look like one.
                error = caught if isinstance(caught, tf.errors.OpError) else caught.__context__
                if not isinstance(error, tf.errors.OpError):
                    raise
                outcomes.append({"code": error.error_code, "text": kernel_text(error), "count": 0})
                continue
            for name, value in zip(run["fetches"], fetched):
                kind = graph.get_tensor_by_name(name).dtype.base_dtype.as_datatype_enum
                tensors.append(encode(value, kind).SerializeToString())
            outcomes.append({"code": 0, "text": "", "count": len(fetched)})
    return [json.dumps(outcomes).encode(), *tensors]


def main(source, target):
    data = memoryview(pathlib.Path(source).read_bytes())
    position = 0
    with open(target, "wb") as out:
        while position < len(data):
            (count,) = struct.unpack_from("<I", data, position)
            position += 4
            frames = []
            for _ in range(count):
                (length,) = struct.unpack_from("<I", data, position)
                frames.append(bytes(data[position + 4:position + 4 + length]))
                position += 4 + length
            answers = run_all(frames)
            out.write(struct.pack("<I", len(answers)))
            for answer in answers:
                out.write(struct.pack("<I", len(answer)))
                out.write(answer)


if __name__ == "__main__":
    for cases, answers in zip(sys.argv[1::2], sys.argv[2::2]):
        main(cases, answers)
