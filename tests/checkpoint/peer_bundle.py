"""Run by the peer's interpreter: write a checkpoint with TensorFlow's ops, and check one that ours wrote.

Arguments: the folder, which holds ``values.npz`` and ``ours.index``; ``theirs`` is written there.
"""

import json
import sys
from pathlib import Path

import numpy as np
import tensorflow as tf

raw = tf.raw_ops


def main(folder):
    stored = np.load(folder / "values.npz", allow_pickle=True)
    values = {}
    for name in stored.files:
        value = stored[name]
        if name.startswith("bfloat16"):
            value = value.view(tf.bfloat16.as_numpy_dtype)
        values[name] = value
    names = [name for name in values if name != "parts"]
    parts = values["parts"]
    specs = json.loads((folder / "specs.json").read_text())
    types = [tf.as_dtype(values[name].dtype) if values[name].dtype != object else tf.string for name in names]
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        tensors = [tf.constant(values[name], kind) for name, kind in zip(names, types)]
        pieces = [parts[tuple(slice(*bound) for bound in bounds)] for _, bounds in specs]
        session.run(raw.SaveV2(prefix=str(folder / "theirs"), tensor_names=names + ["parts"] * len(specs),
                               shape_and_slices=[""] * len(names) + [spec for spec, _ in specs],
                               tensors=tensors + [tf.constant(piece) for piece in pieces]))
        read = session.run(raw.RestoreV2(prefix=str(folder / "ours"), tensor_names=[*names, "parts", "parts"],
                                         shape_and_slices=[""] * (len(names) + 1) + ["10 6 3,4:1,5"],
                                         dtypes=[*types, tf.float64, tf.float64]))
    wanted = [values[name] for name in names] + [parts, parts[3:7, 1:6]]
    for name, found, value in zip([*names, "parts", "part"], read, wanted):
        found = np.asarray(found, object) if isinstance(found, bytes) else np.asarray(found)
        assert found.dtype == value.dtype, (name, found.dtype, value.dtype)
        assert found.shape == value.shape, (name, found.shape, value.shape)
        assert found.tolist() == value.tolist(), name
    reader = tf.train.load_checkpoint(str(folder / "ours"))
    assert set(reader.get_variable_to_shape_map()) == {*names, "parts"}


main(Path(sys.argv[1]))
