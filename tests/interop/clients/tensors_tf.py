"""Tensors of every type and encoding, from TensorFlow's client to a server and back (checklist 62 to 65)."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
import tensorflow.compat.v1 as tf
from checks import check, failure, main, session
from tensorflow.core.framework import graph_pb2, tensor_pb2
from tensorflow.python.framework import dtypes

tf.disable_eager_execution()

RAW = [
    tf.float32,
    tf.float64,
    tf.int8,
    tf.int16,
    tf.int32,
    tf.int64,
    tf.uint8,
    tf.uint16,
    tf.uint32,
    tf.uint64,
    tf.bool,
    tf.float16,
    tf.bfloat16,
    tf.complex64,
    tf.complex128,
    tf.qint8,
    tf.quint8,
    tf.qint16,
    tf.quint16,
    tf.qint32,
    dtypes.float8_e5m2,
    dtypes.float8_e4m3fn,
    dtypes.int4,
    dtypes.uint4,
]
SHAPES = [(), (1,), (7,), (2, 3, 4), (0,), (3, 0, 2)]


def values(dtype: tf.DType, shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Return an array of a type with every bit pattern that the type has a use for."""
    random = np.random.default_rng(seed)
    kind = dtype.as_numpy_dtype
    if dtype == tf.bool:
        return random.integers(0, 2, shape).astype(bool)
    if dtype.is_complex:
        return (random.normal(size=shape) + 1j * random.normal(size=shape)).astype(kind)
    if dtype in (dtypes.int4, dtypes.uint4):
        return random.integers(0, 8, shape).astype(kind)
    if dtype.is_integer or dtype.is_quantized:
        plain = np.dtype(dtype.real_dtype.as_numpy_dtype) if not dtype.is_quantized else np.dtype(kind)[0]
        bounds = np.iinfo(plain)
        return random.integers(bounds.min, bounds.max, shape, plain, endpoint=True).astype(kind)
    made = random.normal(size=shape, scale=10.0).astype(kind)
    if made.size > 2 and dtype in (tf.float32, tf.float64, tf.float16, tf.bfloat16):
        made.reshape(-1)[:3] = [np.inf, -0.0, np.nan]
    return made


def same_bits(one: np.ndarray, other: np.ndarray) -> bool:
    one, other = np.asarray(one), np.asarray(other)
    # The client gives quantized numbers back as the integers that they are stored in.
    same_type = one.dtype == other.dtype or other.dtype.names is not None
    return same_type and one.shape == other.shape and one.tobytes() == other.tobytes()


@check
def every_type_there_and_back(target: str) -> Any:
    wrong, seen = [], []
    with tf.Graph().as_default() as graph:
        feeds = {dtype: tf.placeholder(dtype, name=f"x_{dtype.name}") for dtype in RAW}
        fetches = {dtype: tf.identity(feeds[dtype]) for dtype in RAW}
        with session(target, graph) as sess:
            for number, dtype in enumerate(RAW):
                seen.append(dtype.name)
                for shape in SHAPES:
                    value = values(dtype, shape, number)
                    answer = sess.run(fetches[dtype], {feeds[dtype]: value})
                    if not same_bits(answer, value):
                        wrong.append(f"{dtype.name}{shape}: {value!r} became {answer!r}")
    return {"types": seen, "wrong": wrong}


@check
def types_that_only_travel(target: str) -> Any:
    """All of them in one step: forty-odd feeds, as many fetches."""
    with tf.Graph().as_default() as graph:
        feeds = [tf.placeholder(dtype) for dtype in RAW for _ in range(2)]
        fetches = [tf.identity(feed) for feed in feeds]
        arrays = [values(feed.dtype, (index % 5,), index) for index, feed in enumerate(feeds)]
        with session(target, graph) as sess:
            answers = sess.run(fetches, dict(zip(feeds, arrays)))
    return sum(not same_bits(answer, array) for answer, array in zip(answers, arrays))


@check
def strings_there_and_back(target: str) -> Any:
    samples: list[Any] = [
        b"",
        b"plain",
        b"\x00\xff\xfe",
        "\u00e9\u4e2d".encode(),
        [b"a", b"bb", b""],
        [[b"x" * 127, b"y" * 128, b"z" * 20000]],
        np.empty((0, 3), object),
        [b"%d" % index for index in range(3000)],
    ]
    wrong = []
    with tf.Graph().as_default() as graph:
        x = tf.placeholder(tf.string, name="x")
        y, size = tf.identity(x), tf.shape(x)
        with session(target, graph) as sess:
            for sample in samples:
                value = np.asarray(sample, object)
                answer, shape = sess.run([y, size], {x: value})
                if np.asarray(answer, object).tolist() != value.tolist() or shape.tolist() != list(value.shape):
                    wrong.append(f"{sample!r:.60} became {answer!r:.60}")
    return wrong


def constant(**fields: Any) -> tensor_pb2.TensorProto:
    return tensor_pb2.TensorProto(**fields)


def fetch_constants(target: str, protos: dict[str, tensor_pb2.TensorProto]) -> dict[str, Any]:
    """Run a graph whose Const nodes hold exactly these messages."""
    graph_def = graph_pb2.GraphDef()
    graph_def.versions.producer = 2000
    for name, proto in protos.items():
        node = graph_def.node.add(name=name, op="Const")
        node.attr["dtype"].type = proto.dtype
        node.attr["value"].tensor.CopyFrom(proto)
        hidden = graph_def.node.add(name=f"{name}/again", op="Identity", input=[name])
        hidden.attr["T"].type = proto.dtype
    with tf.Graph().as_default() as graph:
        tf.import_graph_def(graph_def, name="")
        with session(target, graph) as sess:
            fetched = sess.run({name: f"{name}/again:0" for name in protos})
    return {
        name: [np.asarray(value).dtype.name, list(np.asarray(value).shape), raw_of(value)]
        for name, value in fetched.items()
    }


def raw_of(value: Any) -> Any:
    value = np.asarray(value)
    if value.dtype == object:
        return [item.decode("latin-1") for item in value.reshape(-1)]
    return base64.b64encode(value.tobytes()).decode()


def dims(*sizes: int) -> Any:
    return tf.TensorShape(sizes).as_proto()


@check
def short_and_absent_values(target: str) -> Any:
    f, i, s, b = (dtype.as_datatype_enum for dtype in (tf.float32, tf.int32, tf.string, tf.bool))
    return fetch_constants(
        target,
        {
            "splat": constant(dtype=f, tensor_shape=dims(2, 3), float_val=[2.5]),
            "short": constant(dtype=f, tensor_shape=dims(5), float_val=[1.0, 2.0]),
            "exact": constant(dtype=i, tensor_shape=dims(3), int_val=[1, 2, 3]),
            "zeros": constant(dtype=i, tensor_shape=dims(2, 2)),
            "zero_scalar": constant(dtype=f, tensor_shape=dims()),
            "no_shape": constant(dtype=f, float_val=[4.0]),
            "no_shape_no_value": constant(dtype=f),
            "empty_strings": constant(dtype=s, tensor_shape=dims(2)),
            "short_strings": constant(dtype=s, tensor_shape=dims(3), string_val=[b"a", b"b"]),
            "short_bools": constant(dtype=b, tensor_shape=dims(3), bool_val=[False, True]),
            "empty": constant(dtype=f, tensor_shape=dims(0, 4)),
            "empty_strings_of_shape": constant(dtype=s, tensor_shape=dims(2, 0)),
            "int64": constant(dtype=tf.int64.as_datatype_enum, tensor_shape=dims(3), int64_val=[-(1 << 62), 7]),
            "uint64": constant(dtype=tf.uint64.as_datatype_enum, tensor_shape=dims(2), uint64_val=[(1 << 64) - 1]),
            "uint32": constant(dtype=tf.uint32.as_datatype_enum, tensor_shape=dims(2), uint32_val=[(1 << 32) - 1]),
            "double": constant(dtype=tf.float64.as_datatype_enum, tensor_shape=dims(2), double_val=[1e300]),
            "int8": constant(dtype=tf.int8.as_datatype_enum, tensor_shape=dims(3), int_val=[-128, 127]),
            "uint16": constant(dtype=tf.uint16.as_datatype_enum, tensor_shape=dims(2), int_val=[65535, 1]),
        },
    )


@check
def bits_of_small_floats_and_complex_numbers(target: str) -> Any:
    return fetch_constants(
        target,
        {
            "half": constant(
                dtype=tf.float16.as_datatype_enum, tensor_shape=dims(3), half_val=[0x3C00, 0x8000, 0x7E00]
            ),
            "half_splat": constant(dtype=tf.float16.as_datatype_enum, tensor_shape=dims(3), half_val=[0xC000]),
            "bfloat16": constant(dtype=tf.bfloat16.as_datatype_enum, tensor_shape=dims(2), half_val=[0x3F80, 0xFF80]),
            "float8": constant(
                dtype=dtypes.float8_e4m3fn.as_datatype_enum, tensor_shape=dims(2), float8_val=b"\x38\xb8"
            ),
            "complex64": constant(
                dtype=tf.complex64.as_datatype_enum, tensor_shape=dims(3), scomplex_val=[1.0, 2.0, 3.0, -4.0]
            ),
            "complex128": constant(
                dtype=tf.complex128.as_datatype_enum, tensor_shape=dims(2), dcomplex_val=[0.5, -0.5]
            ),
        },
    )


@check
def constants_as_the_client_writes_them(target: str) -> Any:
    wrong = []
    with tf.Graph().as_default() as graph:
        made = []
        for number, dtype in enumerate(RAW):
            if dtype.is_quantized:
                continue
            for shape in SHAPES:
                value = values(dtype, shape, number)
                made.append((tf.identity(tf.constant(value, dtype)), value))
        made.append(
            (tf.identity(tf.constant(np.full((100, 100), 3.0, np.float32))), np.full((100, 100), 3.0, np.float32))
        )
        with session(target, graph) as sess:
            for (tensor, value), answer in zip(made, sess.run([tensor for tensor, _ in made])):
                if not same_bits(answer, value):
                    wrong.append(f"{tensor.dtype.name}{value.shape}: {value!r} became {answer!r}")
    return wrong


@check
def resource_handle(target: str) -> Any:
    """A handle can be fetched and is opaque; this client has no array type with which it could be fed."""
    with tf.Graph().as_default() as graph:
        v = tf.get_variable("handled", initializer=4.0, use_resource=True)
        with session(target, graph) as sess:
            sess.run(v.initializer)
            handle = sess.run(v.handle)
            return [type(handle).__name__, handle.dtype.name, b"handled" in handle.tobytes()]


@check
def wrong_feeds(target: str) -> Any:
    """What the Python client lets through: another shape than the placeholder says, when it says so itself."""
    with tf.Graph().as_default() as graph:
        x = tf.placeholder(tf.float32, [None, 2], name="x")
        y = tf.matmul(x, tf.constant([[1.0], [1.0]]), name="y")
        shape = tf.placeholder(tf.int32, [1], name="shape")
        bad = tf.reshape(x, shape, name="bad")
        loose = tf.placeholder_with_default(tf.constant([[1.0, 2.0]]), [None, 2], name="loose")
        z = tf.matmul(loose, tf.constant([[1.0], [1.0]]), name="z")
        with session(target, graph) as sess:
            try:
                sess.run(y, {x: np.zeros((1, 3))})
            except ValueError as error:
                local = str(error)
            return {
                "local": "Cannot feed value of shape (1, 3)" in local,
                "default": sess.run(z),
                "fed": sess.run(z, {loose: [[3.0, 4.0]]}),
                "good": sess.run(y, {x: [[1.0, 2.0]]}),
                "error": failure(sess.run, bad, {x: [[1.0, 2.0]], shape: [3]}),
            }


if __name__ == "__main__":
    main()
