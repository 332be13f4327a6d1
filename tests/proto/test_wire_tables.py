"""The compiled messages and services against the wire tables in ``tables/``, in both directions.

A table holds what the published protocol has: services with their methods, messages with number, name, type and
label of each field, enums with their values. Anything that one side has and the other does not fails a test.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto

from runtime import wire
from runtime.proto._pool import FILES, POOL

TABLES = {path.stem: path for path in sorted((Path(__file__).parent / "tables").glob("*.txt"))}
SCALARS = {
    value: name.removeprefix("TYPE_").lower()
    for name, value in vars(FieldDescriptor).items()
    if name.startswith("TYPE_") and name not in ("TYPE_MESSAGE", "TYPE_ENUM", "TYPE_GROUP")
}
NEVER_PACKED = {"string", "bytes"}

Facts = dict[str, set[str]]


def read_table(text: str) -> Facts:
    """Return ``kind full.name`` to the set of its lines."""
    facts: Facts = {}
    lines: set[str] | None = None
    for number, line in enumerate(text.splitlines(), 1):
        if re.fullmatch(r"(service|message|enum) [\w.]+", line):
            assert line not in facts, f"line {number}: {line} is listed twice"
            lines = facts.setdefault(line, set())
        elif line.startswith("  "):
            assert lines is not None, f"line {number}: nothing to belong to"
            assert line.strip() not in lines, f"line {number}: {line.strip()} is listed twice"
            lines.add(line.strip())
        else:
            assert not line, f"line {number}: {line!r} is not understood"
    return facts


def field_type(field: FieldDescriptor) -> str:
    if field.message_type is not None:
        return str(field.message_type.full_name)
    return str(field.enum_type.full_name) if field.enum_type is not None else SCALARS[field.type]


def field_line(field: FieldDescriptor, declared: FieldDescriptorProto) -> str:
    """Return a field as the tables write it."""
    repeated = declared.label == FieldDescriptorProto.LABEL_REPEATED
    entry = field.message_type if field.message_type and field.message_type.GetOptions().map_entry else None
    if entry is not None:
        key, value = (field_type(entry.fields_by_name[name]) for name in ("key", "value"))
        text = f"map<{key}, {value}>"
    else:
        label = "repeated " if repeated else "optional " if declared.proto3_optional else ""
        text = label + field_type(field)
    line = f"{field.number} {field.name}: {text}"
    if field.containing_oneof is not None and not declared.proto3_optional:
        line += f" oneof({field.containing_oneof.name})"
    options = field.GetOptions()
    if options.HasField("packed"):
        line += " packed" if options.packed else " unpacked"
    if options.deprecated:
        line += " deprecated"
    return line


def describe(file: Any) -> Facts:
    """Return the facts of one compiled file in the form of :func:`read_table`."""
    facts: Facts = {}
    proto = FileDescriptorProto()
    file.CopyToProto(proto)
    assert proto.syntax == "proto3", file.name

    def add_enum(enum: Any) -> None:
        facts[f"enum {enum.full_name}"] = {f"{value.name}={value.number}" for value in enum.values}

    def add_message(message: Any, declared: Any) -> None:
        by_name = {field.name: field for field in declared.field}
        facts[f"message {message.full_name}"] = {field_line(field, by_name[field.name]) for field in message.fields}
        for enum in message.enum_types:
            add_enum(enum)
        nested = {kid.name: kid for kid in declared.nested_type}
        for kid in message.nested_types:
            if not kid.GetOptions().map_entry:
                add_message(kid, nested[kid.name])

    declared = {message.name: message for message in proto.message_type}
    for name, message in file.message_types_by_name.items():
        add_message(message, declared[name])
    for enum in file.enum_types_by_name.values():
        add_enum(enum)
    for service in file.services_by_name.values():
        facts[f"service {service.full_name}"] = {
            f"{method.name}: {'stream ' * method.client_streaming}{method.input_type.full_name}"
            f" -> {'stream ' * method.server_streaming}{method.output_type.full_name}"
            for method in service.methods
        }
    return facts


def compiled(folder: str) -> Facts:
    facts: Facts = {}
    for name in FILES:
        if name.startswith(f"runtime/proto/{folder}/"):
            facts.update(describe(POOL.FindFileByName(name)))
    return facts


def differences(table: Facts, ours: Facts) -> list[str]:
    found = [f"only in the table: {name}" for name in sorted(table.keys() - ours.keys())]
    found += [f"only compiled: {name}" for name in sorted(ours.keys() - table.keys())]
    for name in sorted(table.keys() & ours.keys()):
        found += [f"{name}, only in the table: {line}" for line in sorted(table[name] - ours[name])]
        found += [f"{name}, only compiled: {line}" for line in sorted(ours[name] - table[name])]
    return found


@pytest.mark.parametrize("family", TABLES)
def test_compiled_protos_equal_the_wire_table(family: str) -> None:
    assert differences(read_table(TABLES[family].read_text()), compiled(family)) == []


def test_every_proto_folder_has_a_table() -> None:
    folders = {name.split("/")[2] for name in FILES if name.startswith("runtime/proto/")}
    assert folders == TABLES.keys()


TABLE = """\
message tensorflow.TensorConnection
  1 from_tensor: string
  2 to_tensor: string
"""


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (("1 from_tensor", "3 from_tensor"), "3 from_tensor: string"),
        (("from_tensor: string", "from_tensor: bytes"), "1 from_tensor: bytes"),
        (("from_tensor: string", "from_tensor: repeated string"), "1 from_tensor: repeated string"),
        (("from_tensor: string", "from_tensor: optional string"), "1 from_tensor: optional string"),
        (("from_tensor: string", "from_tensor: string oneof(kind)"), "1 from_tensor: string oneof(kind)"),
        (("from_tensor", "source"), "1 source: string"),
        (("  2 to_tensor: string\n", ""), "only compiled: 2 to_tensor: string"),
        (("  2 to_tensor: string\n", "  2 to_tensor: string\n  9 more: int32\n"), "only in the table: 9 more: int32"),
    ],
)
def test_a_difference_is_reported(change: tuple[str, str], expected: str) -> None:
    name = "message tensorflow.TensorConnection"
    ours = {name: compiled("tensorflow")[name]}
    assert differences(read_table(TABLE), ours) == []
    found = differences(read_table(TABLE.replace(*change)), ours)
    assert any(expected in line for line in found), found


def test_services_table_is_what_the_descriptors_say() -> None:
    declared = {
        name.removeprefix("service "): {line.split(":")[0]: line for line in lines}
        for family in TABLES
        for name, lines in read_table(TABLES[family].read_text()).items()
        if name.startswith("service ")
    }
    assert {name: set(methods) for name, methods in wire.SERVICES.items()} == {
        name: set(methods) for name, methods in declared.items()
    }
    for service, methods in wire.SERVICES.items():
        for name, method in methods.items():
            request, response = method.request.DESCRIPTOR.full_name, method.response.DESCRIPTOR.full_name
            line = f"{name}: {'stream ' * method.client_streaming}{request}"
            line += f" -> {'stream ' * method.server_streaming}{response}"
            assert line == declared[service][name]
            assert method.path == f"/{service}/{name}"
            assert method.name == name


def test_every_service_has_a_plane() -> None:
    assert wire.PLANES.keys() == wire.SERVICES.keys()
    assert set(wire.PLANES.values()) <= {"graph", "task", "command", "fleet", "stream", "edge"}


@pytest.mark.parametrize("family", TABLES)
def test_repeated_numbers_are_packed_on_the_wire(family: str) -> None:
    """Proto3 packs them whether or not the file says so; a reader of raw bytes relies on it."""
    checked = 0
    for name, lines in read_table(TABLES[family].read_text()).items():
        for line in lines if name.startswith("message ") else ():
            match = re.fullmatch(r"(\d+) (\w+): repeated (\w+)( packed| deprecated)*", line)
            if match is None or match[3] in NEVER_PACKED or match[3] not in SCALARS.values():
                continue
            message = wire.message_class(name.removeprefix("message "))()
            getattr(message, match[2]).extend([1, 1])
            data = message.SerializeToString()
            key, shift, position = 0, 0, 0
            while True:
                key |= (data[position] & 0x7F) << shift
                if data[position] < 0x80:
                    break
                position, shift = position + 1, shift + 7
            assert key == int(match[1]) << 3 | 2, f"{name}.{match[2]}"
            checked += 1
    assert checked or family != "tensorflow"
