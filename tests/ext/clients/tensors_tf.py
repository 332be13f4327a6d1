"""TensorFlow's side of ``test_codec_peer``: reads our tensors with its own code and writes some for us.

Runs in the interpreter that has TensorFlow: ``python tensors_tf.py OURS.json THEIRS.json``. Both files hold lists of
``{"name", "datatype", "shape", "message", "values"}``: the message in base64, the values as raw
elements in base64 or, for strings, a list of them.
"""

import base64
import json
import sys

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2
from tensorflow.python.framework import dtypes

# TensorFlow's C++ ParseTensor has no kernel for these.
NO_KERNEL = {20, 21, 29, 30, 31, 32, 33}
# make_tensor_proto and make_ndarray refuse these 8-bit floats, though the C++ code knows them.
NOT_MADE = {26, 27, 28}


def raw(array):
    if array.dtype == object:
        return [base64.b64encode(item).decode() for item in array.reshape(-1)]
    return base64.b64encode(array.tobytes()).decode()


def low_bits(array, datatype):
    """Clear what the types of less than a byte do not use."""
    if datatype in (29, 30, 33):
        return (array.view(np.uint8) & 15).astype(np.uint8)
    return (array.view(np.uint8) & 3).astype(np.uint8) if datatype in (31, 32) else array


def check_ours(path):
    failures = []
    with open(path) as file:
        items = json.load(file)
    for item in items:
        message = tensor_pb2.TensorProto.FromString(base64.b64decode(item["message"]))
        # make_ndarray knows strings in string_val alone.
        readers = {} if item["datatype"] == 7 or item["datatype"] in NOT_MADE else {"make_ndarray": tf.make_ndarray}
        if item["datatype"] not in NO_KERNEL:
            readers["ParseTensor"] = lambda message: tf.io.parse_tensor(
                message.SerializeToString(), dtypes.as_dtype(message.dtype)).numpy()
        if item["datatype"] in (20, 21):
            continue
        for reader, read in readers.items():
            try:
                array = np.asarray(read(message))
                if item["datatype"] == 7 and array.dtype != object:
                    array = array.astype(object)
                got = raw(np.ascontiguousarray(low_bits(array, item["datatype"])))
            except Exception as error:
                failures.append(f"{item['name']}: {reader}: {error!r}"[:300])
                continue
            if list(array.shape) != item["shape"] or got != item["values"]:
                failures.append(f"{item['name']}: {reader} gives shape {array.shape}, {got!r}"[:300])
    return failures


def make_theirs():
    found = []

    def add(name, message):
        array = np.asarray(tf.make_ndarray(message))
        if message.dtype == 7:
            array = array.astype(object)
        values = raw(np.ascontiguousarray(low_bits(array, message.dtype)))
        found.append({"name": name, "datatype": message.dtype, "shape": list(array.shape), "values": values,
                      "message": base64.b64encode(message.SerializeToString()).decode()})

    rng = np.random.default_rng(0)
    for number in (1, 2, 3, 4, 5, 6, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, *range(22, 34)):
        dtype = dtypes.as_dtype(number)
        if number in NOT_MADE:
            continue
        for shape in ((), (1,), (5,), (40, 2), (0, 3)):
            values = rng.integers(0, 2, shape).astype(dtype.as_numpy_dtype)
            add(f"{dtype.name}{shape}", tf.make_tensor_proto(values, dtype=dtype, shape=shape))
        if number not in (11, 12, 13, 15, 16):
            add(f"{dtype.name}-scalar", tf.make_tensor_proto(np.asarray(1).astype(dtype.as_numpy_dtype)))
        splat = tf.make_tensor_proto(np.asarray(1).astype(dtype.as_numpy_dtype), dtype=dtype)
        if not splat.tensor_content:
            splat.tensor_shape.dim.add(size=3)
            splat.tensor_shape.dim.add(size=2)
            add(f"{dtype.name}-splat", splat)
    add("negative", tf.make_tensor_proto([-1, -128], dtype=tf.int8))
    add("strings", tf.make_tensor_proto([["a", "bb"], ["", "\xe9"]]))
    add("string", tf.make_tensor_proto("one"))
    # tensor_content of strings is read by C++ alone, and so written by it: the form of feeds and fetches.
    strings = tf.constant([["a", "bb"], ["", "x" * 300]])
    message = tensor_pb2.TensorProto.FromString(tf.io.serialize_tensor(strings).numpy())
    found.append({"name": "serialized strings", "datatype": 7, "shape": [2, 2], "values": raw(strings.numpy()),
                  "message": base64.b64encode(message.SerializeToString()).decode()})
    return found


def main():
    failures = check_ours(sys.argv[1])
    with open(sys.argv[2], "w") as file:
        json.dump({"failures": failures, "tensors": make_theirs()}, file)


main()
