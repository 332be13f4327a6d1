"""RunGraph and RecvTensor messages against protobuf's own classes, both ways."""

from __future__ import annotations

import random

import numpy as np
import pytest

from runtime import wire
from runtime._ext.errors import InvalidArgument
from runtime._ext.worker_codec import (
    encode_recv_tensor_response,
    encode_run_graph_request,
    encode_run_graph_response,
    scan_recv_tensor_response,
    scan_run_graph,
    scan_run_graph_response,
)
from tests.ext import tensor_reference as reference
from tests.ext.tensor_messages import example_array, field, int_field, tensor
from tests.ext.test_step_codec import parsed_tensor, random_arrays, random_name, same_all

STATS = wire.StepStats(dev_stats=[wire.DeviceStepStats(device="/cpu:0")]).SerializeToString()
GRAPH = wire.GraphDef(node=[wire.NodeDef(name="n", op="NoOp")]).SerializeToString()


@pytest.mark.parametrize("seed", range(4))
def test_run_graph_requests_read_back_in_protobuf_and_in_the_codec(seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(40):
        arrays, datatypes = random_arrays(rng, rng.choice((0, 1, 9)))
        names = [random_name(rng) for _ in arrays]
        keys = [random_name(rng) for _ in range(rng.randrange(3))]
        partial, last, store, created = (rng.random() < 0.5 for _ in range(4))
        options = rng.choice((None, b"", wire.ExecutorOpts(record_costs=True).SerializeToString()))
        request = encode_run_graph_request(
            "session", "graph", -5, names, arrays, keys, options, partial, last, store, 2**63 - 1, created, datatypes)
        message = wire.RunGraphRequest.FromString(request)
        assert message.SerializeToString() == request
        assert (message.session_handle, message.graph_handle, message.step_id) == ("session", "graph", -5)
        assert [item.name for item in message.send] == names and list(message.recv_key) == keys
        assert same_all([parsed_tensor(item.tensor) for item in message.send], arrays)
        assert (message.is_partial, message.is_last_partial_run) == (partial, last)
        assert message.HasField("exec_opts") == (options is not None)

        call = scan_run_graph(request)
        assert (call.session_handle, call.graph_handle, call.step_id) == ("session", "graph", -5)
        assert call.send_names == names and call.send_datatypes == datatypes and call.recv_keys == keys
        assert same_all(call.send_values, arrays)
        assert (call.is_partial, call.is_last_partial_run, call.exec_opts) == (partial, last, options)
        assert (call.store_errors_in_response_body, call.create_worker_session_called) == (store, created)
        assert call.request_id == 2**63 - 1


def test_a_bad_sent_tensor_is_named_and_the_rest_is_there() -> None:
    request = encode_run_graph_request("s", "g", 1, ["k0"], [np.ones(2)], ["r"])
    with pytest.raises(InvalidArgument, match=r'RunGraphRequest.send\[1\] "k1": TensorProto.dtype') as caught:
        scan_run_graph(request + field(3, field(1, b"k1") + field(2, int_field(1, 99))))
    call = caught.value.call  # type: ignore[attr-defined]
    assert call.store_errors_in_response_body and call.graph_handle == "g" and call.recv_keys == ["r"]


@pytest.mark.parametrize("seed", range(4))
def test_run_graph_responses_read_back_in_protobuf_and_in_the_codec(seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(40):
        arrays, datatypes = random_arrays(rng, rng.choice((0, 1, 9)))
        names = [random_name(rng) for _ in arrays]
        stats, costs = rng.choice((None, b"", STATS)), rng.choice((None, b""))
        graphs = [GRAPH] * rng.randrange(3)
        response = encode_run_graph_response(names, arrays, datatypes, stats, graphs, (9, "not ready"), costs)
        message = wire.RunGraphResponse.FromString(response)
        assert message.SerializeToString() == response
        assert [item.name for item in message.recv] == names
        assert same_all([parsed_tensor(item.tensor) for item in message.recv], arrays)
        assert (message.status_code, message.status_error_message) == (9, "not ready")

        answer = scan_run_graph_response(response)
        assert answer.names == names and answer.datatypes == datatypes and same_all(answer.arrays, arrays)
        assert (answer.step_stats, answer.cost_graph, answer.partition_graphs) == (stats, costs, graphs)
        assert (answer.status_code, answer.status_message) == (9, "not ready")


def test_a_successful_run_graph_response_has_no_status() -> None:
    answer = scan_run_graph_response(encode_run_graph_response())
    assert (answer.status_code, answer.status_message, answer.step_stats, answer.cost_graph) == (0, "", None, None)


@pytest.mark.parametrize("datatype", reference.ALL_DATATYPES)
def test_received_tensors_read_back_in_protobuf_and_in_the_codec(datatype: int) -> None:
    array = example_array(datatype)
    response = encode_recv_tensor_response(array, datatype, send_start_micros=12345, require_ack=True)
    message = wire.RecvTensorResponse.FromString(response)
    assert message.SerializeToString() == response
    assert reference.same(parsed_tensor(message.tensor), array)
    assert (message.send_start_micros, message.require_ack, message.is_dead) == (12345, True, False)
    got_type, got, dead, micros, options, ack = scan_recv_tensor_response(response)
    assert (got_type, dead, micros, options, ack) == (datatype, False, 12345, None, True)
    assert reference.same(got, array)


def test_a_received_scalar_has_no_shape() -> None:
    message = wire.RecvTensorResponse.FromString(encode_recv_tensor_response(np.array(3.5)))
    assert not message.tensor.HasField("tensor_shape")
    assert scan_recv_tensor_response(message.SerializeToString())[1].item() == 3.5


def test_a_dead_value_is_an_empty_float_tensor() -> None:
    response = encode_recv_tensor_response(None, 9, is_dead=True, send_start_micros=1)
    message = wire.RecvTensorResponse.FromString(response)
    assert message.is_dead and message.tensor.dtype == wire.DT_FLOAT and message.tensor.tensor_content == b""
    assert [dim.size for dim in message.tensor.tensor_shape.dim] == [0]
    got_type, got, dead, *_ = scan_recv_tensor_response(response)
    assert dead and got_type == 1 and got.shape == (0,)


def test_transport_options_pass_through() -> None:
    response = encode_recv_tensor_response(np.ones(1)) + field(4, field(1, b"type.googleapis.com/x"))
    assert scan_recv_tensor_response(response)[4] == field(1, b"type.googleapis.com/x")


def test_a_received_tensor_in_two_pieces_is_merged() -> None:
    whole = tensor(4, (2,), field(4, b"ab"))
    assert scan_recv_tensor_response(field(1, whole[:2]) + field(1, whole[2:]))[1].tolist() == [97, 98]


def test_an_answer_without_a_tensor_is_rejected() -> None:
    with pytest.raises(InvalidArgument, match=r"RecvTensorResponse.tensor\[0\]: TensorProto.dtype"):
        scan_recv_tensor_response(int_field(3, 5))
    with pytest.raises(InvalidArgument, match="must be a numpy.ndarray, not NoneType"):
        encode_recv_tensor_response(None)
