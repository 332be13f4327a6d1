"""Run by the peer's interpreter: write a file of the older checkpoint format, and check one that ours wrote.

Arguments: the folder, which holds ``values.npz`` and ``ours``; ``theirs`` is written there.
"""

import sys
from pathlib import Path

import numpy as np
import tensorflow as tf

raw = tf.raw_ops


def main(folder):
    stored = np.load(folder / "values.npz", allow_pickle=True)
    names = [name for name in stored.files if name != "parts"]
    parts = stored["parts"]
    types = [tf.string if stored[name].dtype == object else tf.as_dtype(stored[name].dtype) for name in names]
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        tensors = [tf.constant(stored[name], kind) for name, kind in zip(names, types)]
        session.run(raw.SaveSlices(filename=str(folder / "theirs"), tensor_names=[*names, "parts", "parts"],
                                   shapes_and_slices=[""] * len(names) + ["4 6 0,1:-", "4 6 1,3:-"],
                                   data=[*tensors, tf.constant(parts[:1]), tf.constant(parts[1:])]))
        for name, kind in zip(names, types):
            found = session.run(raw.Restore(file_pattern=str(folder / "ours"), tensor_name=name, dt=kind))
            assert np.array_equal(found, stored[name]), name
        found = session.run(raw.RestoreSlice(file_pattern=str(folder / "ours"), tensor_name="parts",
                                             shape_and_slice="4 6 0,3:2,3", dt=tf.float32))
        assert np.array_equal(found, parts[:3, 2:5])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
