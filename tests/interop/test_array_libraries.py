"""Tensors of PyTorch and JAX through `runtime.transport`, in a program that has them; skipped where it has not."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

from runtime import transport
from runtime.errors import InvalidArgument
from runtime.transport.arrays import outgoing
from tests.processes import free_port

WAIT_S = 60


def through(tensors: dict[str, Any]) -> dict[str, np.ndarray]:
    """Send tensors over a stream, and return what comes."""
    address = f"127.0.0.1:{free_port()}"
    sender = threading.Thread(target=transport.send, args=(tensors, f"grpc://{address}"),
                              kwargs={"timeout_s": WAIT_S, "share": False})
    sender.start()
    try:
        found: dict[str, np.ndarray] = transport.receive(listen=address, timeout_s=WAIT_S, share=False)
    finally:
        sender.join(WAIT_S)
    return found


def test_tensors_of_pytorch_come_back_as_they_were() -> None:
    torch = pytest.importorskip("torch")
    weights = torch.randn(300, 700, generator=torch.Generator().manual_seed(1))
    sent = {
        "float32": weights, "float64": weights.double(), "transposed": weights.t(), "strided": weights[::2, 1:],
        "int64": torch.arange(5), "bool": torch.tensor([True, False]), "zero-dim": torch.tensor(2.5),
        "empty": torch.empty(0, 3), "complex64": torch.complex(weights, weights),
    }
    found = through(sent)
    for name, tensor in sent.items():
        taken = torch.from_dlpack(found[name])
        assert taken.dtype == tensor.dtype and torch.equal(taken, tensor), name
        assert taken.data_ptr() == found[name].ctypes.data or not tensor.numel()  # no copy
    assert outgoing("x", weights).content.ctypes.data == weights.data_ptr()


def test_bfloat16_and_float8_of_pytorch_come_back_as_they_were() -> None:
    torch = pytest.importorskip("torch")
    weights = torch.randn(300, 700, generator=torch.Generator().manual_seed(2))
    sent = {"bfloat16": weights.bfloat16(), "transposed": weights.bfloat16().t(),
            "float8": weights.to(torch.float8_e4m3fn)}
    assert outgoing("x", sent["bfloat16"]).content.ctypes.data == sent["bfloat16"].data_ptr()
    found = through(sent)
    for name, integers in (("bfloat16", "int16"), ("transposed", "int16"), ("float8", "uint8")):
        assert found[name].dtype.name == str(sent[name].dtype).removeprefix("torch.")
        taken = torch.from_dlpack(found[name].view(integers)).view(sent[name].dtype)
        assert torch.equal(taken.float(), sent[name].float())
        assert taken.data_ptr() == found[name].ctypes.data


def test_parameters_of_pytorch_say_what_to_do() -> None:
    torch = pytest.importorskip("torch")
    with pytest.raises(InvalidArgument, match=r"'w' is a torch.*Parameter that cannot be read as an array.*detach\(\)"):
        outgoing("w", torch.nn.Parameter(torch.ones(3)))


def test_arrays_of_jax_come_back_as_they_were() -> None:
    jax = pytest.importorskip("jax")
    weights = jax.random.normal(jax.random.key(1), (300, 700))
    sent = {"float32": weights, "bfloat16": weights.astype("bfloat16"), "int32": jax.numpy.arange(5)}
    found = through(sent)
    for name, array in sent.items():
        assert found[name].dtype == array.dtype and (found[name] == np.asarray(array)).all(), name
        assert jax.numpy.array_equal(jax.numpy.asarray(found[name]), array)
    assert outgoing("x", sent["bfloat16"]).content.ctypes.data == sent["bfloat16"].unsafe_buffer_pointer()
