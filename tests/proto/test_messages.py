"""Message classes from the private pool: how they are found, and what they keep."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf import json_format, text_format

from runtime import wire
from runtime.proto import _pool
from tests.peers import ROOT

PROTOS = sorted((ROOT / "proto").rglob("*.proto"))


@pytest.mark.parametrize("path", PROTOS, ids=lambda path: str(path.relative_to(ROOT / "proto")))
def test_every_proto_has_its_module(path: Path) -> None:
    module = path.with_name(f"{path.stem}_pb2.py")
    assert module.read_text() == "from runtime.proto import _pool\n\n_pool.export(__name__, globals())\n"
    package = path.parent / "__init__.py"
    dotted = ".".join(("runtime", *module.relative_to(ROOT).with_suffix("").parts))
    assert f"    from {dotted} import *\n" in package.read_text()


def test_descriptor_set_holds_every_proto_of_the_tree() -> None:
    names = {f"runtime/{path.relative_to(ROOT).as_posix()}" for path in PROTOS}
    assert names == {name for name in _pool.FILES if name.startswith("runtime/")}


def test_unknown_fields_survive_a_round_trip() -> None:
    node = wire.NodeDef(name="n", op="NoOp").SerializeToString()
    unknown = b"\xba\x3e\x03new"  # field 999, length-delimited
    graph = wire.GraphDef.FromString(b"\x0a" + bytes([len(node + unknown)]) + node + unknown)
    assert graph.node[0].name == "n"
    assert unknown in graph.SerializeToString()
    copy = wire.GraphDef()
    copy.CopyFrom(graph)
    assert unknown in copy.SerializeToString()


def test_unknown_enum_number_survives_a_round_trip() -> None:
    tensor = wire.TensorProto.FromString(b"\x08\xc8\x01")
    assert tensor.dtype == 200
    assert tensor.SerializeToString() == b"\x08\xc8\x01"


def test_wire_and_modules_give_the_same_classes() -> None:
    from runtime.proto.tensorflow import graph_pb2, types_pb2

    assert wire.GraphDef is graph_pb2.GraphDef
    assert wire.message_class("tensorflow.GraphDef") is graph_pb2.GraphDef
    assert wire.SERVICES["tensorflow.MasterService"]["RunStep"].request is wire.RunStepRequest
    assert wire.DataType.Name(1) == "DT_FLOAT"
    assert wire.DT_FLOAT == types_pb2.DT_FLOAT == 1
    assert wire.OptimizerOptions.L0 == -1


def test_protocols_with_common_names_are_kept_apart() -> None:
    assert wire.armonik.TaskRequest.DESCRIPTOR.full_name == "ArmoniK.api.grpc.v1.TaskRequest"
    assert wire.taskqueue.TaskRequest.DESCRIPTOR.full_name == "taskqueue.TaskRequest"
    assert wire.fleet.Machine.DESCRIPTOR.full_name == "pb.Machine"
    assert wire.armonik.TaskStatus.DESCRIPTOR.full_name == "ArmoniK.api.grpc.v1.TaskStatus.TaskStatus"
    assert wire.armonik.TASK_STATUS_PROCESSING == 10
    assert wire.reflection.v1.ErrorResponse is not wire.reflection.v1alpha.ErrorResponse


@pytest.mark.parametrize(
    "module", [wire, wire.tensorflow, wire.armonik, wire.reflection.v1], ids=lambda module: module.__name__
)
def test_unknown_name_is_an_attribute_error(module: object) -> None:
    with pytest.raises(AttributeError, match="has no attribute 'GraphDeff'"):
        _ = module.GraphDeff  # type: ignore[attr-defined]


def test_unknown_message_is_a_key_error() -> None:
    with pytest.raises(KeyError, match=r"tensorflow\.Nothing"):
        wire.message_class("tensorflow.Nothing")


def test_messages_pickle_by_the_name_of_their_module() -> None:
    attr = wire.AttrValue(shape=wire.TensorShapeProto(dim=[wire.TensorShapeProto.Dim(size=3)]))
    data = pickle.dumps(attr)
    assert b"runtime.proto.tensorflow.attr_value_pb2" in data
    assert pickle.loads(data) == attr


def test_any_and_duration_are_usable() -> None:
    from datetime import timedelta

    options = wire.armonik.TaskOptions()
    options.max_duration.FromTimedelta(timedelta(seconds=90))
    assert options.max_duration.seconds == 90
    request = wire.RecvTensorRequest()
    request.transport_options.Pack(wire.TensorShapeProto(unknown_rank=True))
    shape = wire.TensorShapeProto()
    assert request.transport_options.Unpack(shape)
    assert shape.unknown_rank
    text = text_format.MessageToString(request, descriptor_pool=wire.POOL)
    assert text_format.Parse(text, wire.RecvTensorRequest(), descriptor_pool=wire.POOL) == request
    assert json_format.MessageToDict(request, descriptor_pool=wire.POOL)["transportOptions"]["unknownRank"] is True


def test_missing_descriptor_set_says_how_to_build_it() -> None:
    script = """
import pkgutil
def missing(package, name):
    raise FileNotFoundError(name)
pkgutil.get_data = missing
import runtime.wire
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=30)
    assert done.returncode == 1
    assert "descriptors.binpb is missing; build it with `python setup.py build_ext --inplace`" in done.stderr


def test_module_without_its_proto_is_an_import_error() -> None:
    with pytest.raises(ImportError, match=r"holds no runtime/proto/tensorflow/nothing\.proto"):
        _pool.export("runtime.proto.tensorflow.nothing_pb2", {})


def test_methods_describe_their_streams() -> None:
    methods = wire.SERVICES["taskqueue.TaskQueue"]
    assert (methods["SendTaskLogs"].client_streaming, methods["SendTaskLogs"].server_streaming) == (True, False)
    assert (methods["StreamTaskLogs"].client_streaming, methods["StreamTaskLogs"].server_streaming) == (False, True)
    process = wire.SERVICES["ArmoniK.api.grpc.v1.Worker"]["Process"]
    assert (process.client_streaming, process.server_streaming) == (True, True)
    assert process.path == "/ArmoniK.api.grpc.v1.Worker/Process"
