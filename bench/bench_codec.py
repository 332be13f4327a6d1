"""The codec beside protobuf's parser, beside TensorFlow's own conversions, and beside a plain copy of the same bytes.

``python -m runtime.bench.bench_codec [--seconds S] [--json FILE] [--untuned] [--without-tensorflow]``. ``memcpy``
copies the content to memory that is there already, the least an encoding can cost; ``tobytes`` is the plain way to a
new bytes object. The allocator keeps freed memory, as in ``tensor-runtime serve``; ``--untuned`` leaves it as it is in
a client. The implementations take turns, so that a slow phase of the machine hits all of them; TensorFlow runs in a
process of its own, directly afterwards.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from runtime import wire
from runtime._ext.step_codec import RequestPlan, ResponsePlan, scan_run_step, scan_run_step_response
from runtime._ext.tensor_codec import decode_tensor, encode_tensor
from runtime.bench.peers import peer_python
from runtime.bench.report import environment, print_table, write_json
from runtime.process_tuning import tune_malloc

CLIENT = Path(__file__).parent / "clients" / "codec_tf.py"
SIZES = (1 << 10, 64 << 10, 1 << 20, 4 << 20, 16 << 20, 64 << 20)
BLOCK_S = 1e-3


def measure(calls: dict[str, Callable[[], Any]], seconds: float) -> dict[str, dict[str, float]]:
    """Time calls in turns.

    Parameters
    ----------
    calls : dict of str to callable
    seconds : float
        Measured time per call.

    Returns
    -------
    dict of str to dict
        ``best_us`` and ``median_us`` of one call, over blocks of calls that last about a millisecond.
    """
    repeats: dict[str, int] = {}
    times: dict[str, list[float]] = {name: [] for name in calls}
    for name, call in calls.items():
        call()
        start = time.perf_counter()
        call()
        repeats[name] = max(1, int(BLOCK_S / max(time.perf_counter() - start, 1e-7)))
    end = time.perf_counter() + seconds * len(calls)
    while time.perf_counter() < end or len(times[name]) < 3:
        for name, call in calls.items():
            rounds = range(repeats[name])
            start = time.perf_counter()
            for _ in rounds:
                call()
            times[name].append((time.perf_counter() - start) / repeats[name] * 1e6)
    return {name: {"best_us": min(found), "median_us": sorted(found)[len(found) // 2]}
            for name, found in times.items()}


def _protobuf_encode(array: np.ndarray[Any, Any]) -> bytes:
    message = wire.TensorProto(dtype=wire.DT_FLOAT, tensor_content=array.tobytes())
    for size in array.shape:
        message.tensor_shape.dim.add(size=size)
    return message.SerializeToString()


def _protobuf_decode(data: bytes) -> np.ndarray[Any, Any]:
    message = wire.TensorProto.FromString(data)
    shape = [dim.size for dim in message.tensor_shape.dim]
    return np.frombuffer(message.tensor_content, np.float32).reshape(shape)


def tensor_rows(nbytes: int, seconds: float) -> list[dict[str, Any]]:
    """Return a row for encoding and one for decoding a float32 vector of ``nbytes``."""
    array = np.arange(nbytes // 4, dtype=np.float32)
    message = encode_tensor(array)
    target = np.empty_like(array)
    encode = measure({"ours": lambda: encode_tensor(array), "protobuf": lambda: _protobuf_encode(array),
                      "tobytes": lambda: array.tobytes(), "memcpy": lambda: np.copyto(target, array)}, seconds)
    decode = measure({"ours": lambda: decode_tensor(message), "protobuf": lambda: _protobuf_decode(message)}, seconds)
    return [{"operation": "encode", "nbytes": nbytes, **encode}, {"operation": "decode", "nbytes": nbytes, **decode}]


def add_tensorflow(rows: list[dict[str, Any]], sizes: list[int], seconds: float) -> None:
    """Measure TensorFlow in its own interpreter and add the times to the rows."""
    spec = json.dumps({"sizes": sizes, "seconds": seconds})
    quiet = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2", "TF_ENABLE_ONEDNN_OPTS": "0"}
    done = subprocess.run([peer_python(), str(CLIENT), spec], env=quiet, stdout=subprocess.PIPE, text=True, check=True)
    for line in done.stdout.splitlines():
        if line.startswith("{"):
            found = json.loads(line)
            row = next(row for row in rows
                       if (row["operation"], row["nbytes"]) == (found["operation"], found["nbytes"]))
            row["tensorflow"] = {"best_us": found["best_us"], "median_us": found["median_us"]}


def step_rows(seconds: float) -> list[dict[str, Any]]:
    """Return rows for the messages of a small step: one feed of four floats, one fetch, one target."""
    x = np.arange(4, dtype=np.float32)
    request_plan = RequestPlan("session", ["x:0"], ["y:0"], ["train"], b"\x08\x00")
    response_plan = ResponsePlan(["y:0"], [1])
    request, response = request_plan.encode([x], 12345), response_plan.encode([x], b"")

    def protobuf_scan() -> Any:
        message = wire.RunStepRequest.FromString(request)
        return ([(feed.name, np.frombuffer(feed.tensor.tensor_content, np.float32)) for feed in message.feed],
                list(message.fetch), list(message.target), message.session_handle, message.request_id)

    def protobuf_response() -> bytes:
        message = wire.RunStepResponse()
        item = message.tensor.add(name="y:0")
        item.tensor.dtype = 1
        item.tensor.tensor_shape.dim.add(size=4)
        item.tensor.tensor_content = x.tobytes()
        message.metadata.SetInParent()
        return message.SerializeToString()

    def protobuf_scan_response() -> Any:
        message = wire.RunStepResponse.FromString(response)
        return [(item.name, np.frombuffer(item.tensor.tensor_content, np.float32)) for item in message.tensor]

    cases = {
        "scan_run_step": (lambda: scan_run_step(request), protobuf_scan),
        "encode_run_step_response": (lambda: response_plan.encode([x], b""), protobuf_response),
        "scan_run_step_response": (lambda: scan_run_step_response(response), protobuf_scan_response),
    }
    return [{"operation": name, **measure({"ours": ours, "protobuf": theirs}, seconds)}
            for name, (ours, theirs) in cases.items()]


def _size(nbytes: int) -> str:
    return f"{nbytes >> 20} MiB" if nbytes >= 1 << 20 else f"{nbytes >> 10} KiB"


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=0.5, help="measured time per case and implementation")
    parser.add_argument("--json", type=Path, help="also write the results to this file")
    parser.add_argument("--without-tensorflow", action="store_true", help="leave TensorFlow's functions out")
    parser.add_argument("--untuned", action="store_true", help="give freed memory back to the system as usual")
    options = parser.parse_args()
    if not options.untuned:
        tune_malloc()
    rows = [row for nbytes in SIZES for row in tensor_rows(nbytes, options.seconds)]
    if not options.without_tensorflow:
        add_tensorflow(rows, list(SIZES), options.seconds)
    steps = step_rows(options.seconds)

    def cell(row: dict[str, Any], who: str) -> float | str:
        return row[who]["median_us"] if who in row else "-"

    print_table(
        "float32 tensors; median times in us",
        ["case", "ours", "memcpy", "tobytes", "protobuf", "TensorFlow", "ours/memcpy (best)"],
        [[f"{row['operation']}[{_size(row['nbytes'])}]", cell(row, "ours"), cell(row, "memcpy"),
          cell(row, "tobytes"), cell(row, "protobuf"), cell(row, "tensorflow"),
          row["ours"]["best_us"] / row["memcpy"]["best_us"] if "memcpy" in row else "-"]
         for row in rows],
    )
    print_table("messages of a small step; median times in us", ["case", "ours", "protobuf"],
                [[row["operation"], cell(row, "ours"), cell(row, "protobuf")] for row in steps])
    if options.json:
        cases = [{"case": f"{row['operation']}[{_size(row['nbytes'])}]", **row} for row in rows]
        write_json(options.json, {"benchmark": "codec", "environment": environment(), "tuned": not options.untuned,
                                  "rows": cases, "tensors": rows, "steps": steps})


if __name__ == "__main__":
    main()
