"""Who owns the memory: views keep their message, nothing grows, threads do not disturb each other."""

from __future__ import annotations

import gc
import os
import sys
import threading
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from runtime._ext import step_codec, tensor_codec, worker_codec
from runtime._ext.errors import Error
from tests.ext.tensor_messages import example_array, field, samples, tensor
from tests.ext.tensor_reference import ALL_DATATYPES

X = np.arange(1000, dtype=np.float32)
STRINGS = np.array([b"abc" * 20, b"", b"d"], object)


def test_a_view_keeps_its_message_alive() -> None:
    message = tensor_codec.encode_tensor(X)
    before = sys.getrefcount(message)
    array = tensor_codec.decode_tensor(message)
    assert sys.getrefcount(message) == before + 1
    part = array[10:20]
    del array
    assert sys.getrefcount(message) == before + 1
    del part
    assert sys.getrefcount(message) == before


def test_a_view_outlives_the_request_object() -> None:
    request = step_codec.encode_run_step_request("s", ["x"], [X])
    value = step_codec.scan_run_step(request).feed_values[0]
    del request
    gc.collect()
    # Memory of the size of the request is asked for again, so that a freed one would be overwritten.
    junk = [b"\xff" * (4000 + index % 200) for index in range(2000)]
    assert (value == X).all() and junk


def test_a_copied_tensor_holds_nothing_of_the_message() -> None:
    for message in (tensor(1, (3,), field(5, bytes(4))), tensor_codec.encode_tensor(STRINGS),
                    tensor(10, (2,), field(4, b"\2\0"))):
        before = sys.getrefcount(message)
        array = tensor_codec.decode_tensor(message)
        assert sys.getrefcount(message) == before
        assert array.base is None


def test_strings_of_a_splat_are_one_object_counted_rightly() -> None:
    array = tensor_codec.decode_tensor(tensor(7, (1000,), field(8, b"unlikely to be interned")))
    item = array[0]
    assert all(other is item for other in array)
    held = sys.getrefcount(item)
    del array
    assert held - sys.getrefcount(item) == 1000


def test_encoding_holds_neither_array_nor_elements() -> None:
    array = np.array([b"text %d" % 5, b"more"], object)
    item = array[0]
    counts = sys.getrefcount(array), sys.getrefcount(item)
    tensor_codec.encode_tensor(array)
    step_codec.encode_run_step_response(["a", "b"], [array, array])
    assert (sys.getrefcount(array), sys.getrefcount(item)) == counts


def test_a_failed_call_lets_go_of_everything() -> None:
    class Element:
        pass

    element = Element()
    gone = weakref.ref(element)
    array = np.array([b"a", element], object)
    del element
    with pytest.raises(Error):
        tensor_codec.encode_tensor(array)
    del array
    gc.collect()
    assert gone() is None


def every_operation() -> dict[str, Callable[[], Any]]:
    """Return calls that cover each path through the codec, failing ones included."""
    calls: dict[str, Callable[[], Any]] = {}
    for name, message in samples().items():
        calls[f"decode {name}"] = lambda message=message: tensor_codec.decode_tensor_ex(message)
        calls[f"decode cut {name}"] = lambda message=message: tensor_codec.decode_tensor_ex(message[:-1])
    for datatype in ALL_DATATYPES:
        array = example_array(datatype, (3, 4))
        calls[f"encode {datatype}"] = lambda array=array, datatype=datatype: (
            tensor_codec.encode_tensor(array, datatype), tensor_codec.encode_tensor(array.T, datatype))
    many = [X] * 20
    names = [f"n{index}" for index in range(20)]
    request = step_codec.encode_run_step_request("s", names, many, names, names, b"\x08\x03")
    joined = field(2, field(1, b"x") + field(2, b"\x08\x01") + field(2, field(4, bytes(4))))
    response = step_codec.encode_run_step_response(names, many, None, b"\x08\x03")
    graph_request = worker_codec.encode_run_graph_request("s", "g", 1, names, many, names, b"\x08\x01")
    graph_response = worker_codec.encode_run_graph_response(names, many, None, b"", [b"", b""], (3, "no"), b"")
    received = worker_codec.encode_recv_tensor_response(X)
    callable_request = step_codec.encode_run_callable_request("s", 1, many)
    plan = step_codec.ResponsePlan(names)
    calls |= {
        "scan_run_step": lambda: step_codec.scan_run_step(request),
        "scan_run_step cut": lambda: step_codec.scan_run_step(request[:-1]),
        "scan_run_step joined": lambda: step_codec.scan_run_step(joined + field(5, b"\x08\x01") * 2),
        "scan_run_step bad feed": lambda: step_codec.scan_run_step(request + field(2, field(1, b"bad"))),
        "scan_run_step_response": lambda: step_codec.scan_run_step_response(response),
        "plan": lambda: plan.encode(many, b"\x08\x03"),
        "plan wrong": lambda: plan.encode([X] * 19 + [STRINGS.astype("M8")]),
        "plan missing": lambda: plan.encode([X]),
        "request": lambda: step_codec.encode_run_step_request("s", names, many, names),
        "error": lambda: step_codec.encode_run_step_error(3, "no", b""),
        "callable": lambda: step_codec.scan_run_callable(callable_request),
        "graph": lambda: worker_codec.scan_run_graph(graph_request),
        "graph cut": lambda: worker_codec.scan_run_graph(graph_request[:-40]),
        "graph response": lambda: worker_codec.scan_run_graph_response(graph_response),
        "recv": lambda: worker_codec.scan_recv_tensor_response(received * 2),
        "recv dead": lambda: worker_codec.encode_recv_tensor_response(None, is_dead=True),
    }
    return calls


def quietly(call: Callable[[], Any]) -> None:
    try:
        call()
    except (Error, ValueError):
        return


def test_no_operation_leaves_memory_behind() -> None:
    calls = every_operation()
    for call in calls.values():
        for _ in range(3):
            quietly(call)
    grown = {}
    # What is alive already need not be gone through by each of the collections.
    gc.freeze()
    try:
        for name, call in calls.items():
            gc.collect()
            before = sys.getallocatedblocks()
            for _ in range(200):
                quietly(call)
            gc.collect()
            blocks = sys.getallocatedblocks() - before
            # A leak of one block per call would be 200.
            if blocks > 60:
                grown[name] = blocks
    finally:
        gc.unfreeze()
    assert not grown


@pytest.mark.skipif("libasan" in os.environ.get("LD_PRELOAD", ""), reason="the address sanitizer keeps freed memory")
def test_large_arrays_do_not_leak() -> None:
    with open("/proc/self/statm") as statm:
        def resident_pages() -> int:
            statm.seek(0)
            return int(statm.read().split()[1])

        big = np.ones(1 << 21, np.float32)
        splat = tensor(1, (1 << 21,), field(5, bytes(4)))
        strided = big[::2]
        def once() -> None:
            tensor_codec.decode_tensor(tensor_codec.encode_tensor(big))
            tensor_codec.encode_tensor(strided)
            tensor_codec.decode_tensor(splat)

        for _ in range(3):
            once()
        before = resident_pages()
        for _ in range(20):
            once()
        # Twenty leaked arrays would be 160 MiB or more; pages are 4 KiB.
        assert (resident_pages() - before) * 4 < 32 * 1024


def test_names_that_never_repeat_do_not_pile_up() -> None:
    def requests(start: int, count: int) -> None:
        for index in range(start, start + count):
            step_codec.scan_run_step(step_codec.encode_run_step_request(f"session{index}", fetches=[f"f{index}"]))

    requests(0, 20000)  # fills every slot of the caches
    gc.collect()
    before = sys.getallocatedblocks()
    requests(20000, 20000)
    gc.collect()
    assert sys.getallocatedblocks() - before < 2000


@pytest.mark.timeout(60)
def test_threads_encode_and_decode_at_the_same_time() -> None:
    failures: list[str] = []

    def work(seed: int) -> None:
        array = np.full(1 << 18, seed, np.int32)
        small = np.full(7, seed, np.int64)
        plan = step_codec.ResponsePlan(["a", f"b{seed}"])
        for index in range(60):
            names, arrays, *_ = step_codec.scan_run_step_response(plan.encode([array, small]))
            if names != ["a", f"b{seed}"] or (arrays[0] != seed).any() or (arrays[1] != seed).any():
                failures.append(f"thread {seed}, round {index}")
            call = step_codec.scan_run_step(step_codec.encode_run_step_request("s", [f"x{seed}"], [small]))
            if call.feed_names != (f"x{seed}",) or call.feed_values[0][0] != seed:
                failures.append(f"thread {seed}, round {index}: request")

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(50)
        assert not thread.is_alive()
    assert not failures
