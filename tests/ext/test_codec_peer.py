"""TensorFlow's own functions read what the codec writes, and the codec reads what they write."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runtime._ext.tensor_codec import decode_tensor_ex, encode_tensor
from tests import peers
from tests.ext.tensor_messages import example_array
from tests.ext.tensor_reference import ALL_DATATYPES

SCRIPT = Path(__file__).parent / "clients" / "tensors_tf.py"


def raw(array: np.ndarray[Any, Any], datatype: int) -> Any:
    """Return the elements in a form that JSON can hold and that ignores unused bits."""
    if array.dtype == object:
        return [base64.b64encode(item).decode() for item in array.reshape(-1)]
    array = np.ascontiguousarray(array)
    if datatype in (29, 30, 33):
        array = array.view(np.uint8) & 15
    elif datatype in (31, 32):
        array = array.view(np.uint8) & 3
    return base64.b64encode(array.tobytes()).decode()


@pytest.fixture(scope="module")
def exchange(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What TensorFlow said of our tensors, and its own."""
    folder = tmp_path_factory.mktemp("tensors")
    ours = []
    for datatype in ALL_DATATYPES:
        for shape in ((), (3,), (2, 3), (0, 2)):
            array = example_array(datatype, shape)
            ours.append({"name": f"{datatype}{shape}", "datatype": datatype, "shape": list(shape),
                         "message": base64.b64encode(encode_tensor(array, datatype)).decode(),
                         "values": raw(array, datatype)})
    (folder / "ours.json").write_text(json.dumps(ours))
    peers.run_peer(SCRIPT, str(folder / "ours.json"), str(folder / "theirs.json"))
    result: dict[str, Any] = json.loads((folder / "theirs.json").read_text())
    return result


def test_tensorflow_reads_every_tensor_of_ours(exchange: dict[str, Any]) -> None:
    assert exchange["failures"] == []


def test_every_tensor_of_tensorflow_decodes(exchange: dict[str, Any]) -> None:
    assert len(exchange["tensors"]) > 150
    wrong = []
    for item in exchange["tensors"]:
        datatype, array = decode_tensor_ex(base64.b64decode(item["message"]))
        if (datatype, list(array.shape), raw(array, datatype)) != (item["datatype"], item["shape"], item["values"]):
            wrong.append(f"{item['name']}: {array!r}")
    assert wrong == []
