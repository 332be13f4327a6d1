"""Cases of readers and whole files; `tests/ops/test_readers.py` has what waits."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from runtime._ext.crc32c import crc32c, mask
from runtime.dtypes import DataType, from_numpy
from tests.ops.case import Case, Run, as_array, graph_case, node, op_case
from tests.ops.cases.variables import fed, feeds
from tests.ops.folder import case_file, case_folder

S, L = DataType.STRING, DataType.INT64
LINES = b"first\nsecond line\r\n\nlast without end"
RECORDS = (b"one", b"", b"a longer record \x00\xff" * 20)


def cases() -> Iterator[Case]:
    """Yield the cases."""
    for case in (*_identity(), *_whole_files(), *_lines(), *_records()):
        yield case
        yield older(case)
    yield from _fixed()  # TensorFlow 2.21 cannot run its own older form
    yield from _queues()
    yield from _files()


def frames(records: Sequence[bytes]) -> bytes:
    """Return the content of a TFRecord file."""
    out = []
    for record in records:
        head = len(record).to_bytes(8, "little")
        out += [head, mask(crc32c(head)).to_bytes(4, "little"), record, mask(crc32c(record)).to_bytes(4, "little")]
    return b"".join(out)


def older(case: Case) -> Case:
    """Return a case with the ops that hand on references."""
    nodes = []
    for newer in case.nodes:
        changed = type(newer).FromString(newer.SerializeToString())
        changed.op = changed.op.removesuffix("V2")
        nodes.append(changed)
    op = case.op.removesuffix("V2")
    return replace(case, op=op, name=case.name.replace(case.op, op), nodes=nodes, producer=25)


class Graph:
    """A reader, a queue of names, and the ops on them; every method adds a run."""

    def __init__(self, op: str, types: Sequence[DataType] = (S,), **attrs: Any) -> None:
        self.op = op
        self.nodes: list[Any] = [
            node(op, "r", shared_name="reader", **attrs),
            node("FIFOQueueV2", "q", shared_name="names", component_types=list(types)),
            *fed(count=np.array(0), state=np.array(b"", object)),
            node("ReaderReadV2", "read", ["r", "q"]), node("ReaderReadUpToV2", "up_to", ["r", "q", "count"]),
            node("ReaderNumRecordsProducedV2", "records", ["r"]),
            node("ReaderNumWorkUnitsCompletedV2", "units", ["r"]), node("ReaderResetV2", "reset", ["r"]),
            node("ReaderSerializeStateV2", "save", ["r"]), node("ReaderRestoreStateV2", "restore", ["r", "state"]),
            node("QueueCloseV2", "close", ["q"])]
        self.runs: list[Run] = []
        self._made = 0

    def put(self, *components: Any) -> None:
        """Enqueue the components of one element."""
        arrays = [as_array(value) for value in components]
        self._made += 1
        names = [f"x{self._made}_{number}" for number in range(len(arrays))]
        inputs = dict(zip(names, arrays, strict=True))
        self.nodes += [*fed(**inputs), node("QueueEnqueueV2", f"put{self._made}", ["q", *names],
                                            Tcomponents=[from_numpy(array.dtype) for array in arrays])]
        self.runs.append(Run(feeds(**inputs), [], [f"put{self._made}"]))

    def files(self, **contents: bytes) -> None:
        """Write files and enqueue their names; nothing else follows."""
        for name, content in contents.items():
            self.put(case_file(name, content))
        self.do("close")

    def read(self, times: int = 1) -> None:
        self.runs += [Run({}, ["read:0", "read:1"])] * times

    def up_to(self, count: int) -> None:
        self.runs.append(Run({"count:0": np.array(count)}, ["up_to:0", "up_to:1"]))

    def counts(self) -> None:
        self.runs.append(Run({}, ["records:0", "units:0"]))

    def do(self, name: str) -> None:
        self.runs.append(Run({}, [], [name]))

    def save(self) -> None:
        self.runs.append(Run({}, ["save:0"]))

    def restore(self, state: bytes) -> None:
        self.runs.append(Run({"state:0": np.array(state, object)}, [], ["restore"]))

    def case(self, name: str, op: str = "") -> Case:
        return graph_case(op or self.op, name, self.nodes, *self.runs)


def _identity() -> Iterator[Case]:
    graph = Graph("IdentityReaderV2")
    for name in ("a", "b/c", "", "d"):
        graph.put(name)
    graph.do("close")
    graph.counts()
    graph.read()
    graph.save()
    graph.read()
    graph.counts()
    graph.save()
    graph.do("reset")
    graph.counts()
    graph.save()
    graph.up_to(3)
    graph.up_to(3)
    graph.counts()
    graph.up_to(1)
    graph.read()
    yield graph.case("life")
    graph = Graph("IdentityReaderV2")
    graph.put("x")
    graph.do("close")
    graph.restore(b"\x08\x05\x10\x04\x18\x09\x22\x03abc")
    graph.save()
    graph.counts()
    graph.restore(b"\x08\x04\x10\x04\x18\x09")
    graph.save()
    graph.counts()
    graph.read()
    graph.save()
    for state in (b"\x08", b"no state", b"\x08\x05\x10\x03\x18\x09", b"\x08\x04\x10\x05\x18\x01"):
        graph.restore(state)
    graph.counts()
    case = graph.case("state", "ReaderRestoreStateV2")
    yield replace(case, text=False)  # TensorFlow shows the message's fields
    for op in ("TextLineReaderV2", "TFRecordReaderV2"):
        graph = Graph(op)
        graph.save()
        graph.restore(b"")
        yield graph.case(f"no state of a {op}", "ReaderSerializeStateV2")


def _whole_files() -> Iterator[Case]:
    graph = Graph("WholeFileReaderV2")
    graph.files(whole_a=b"content \x00 of a", whole_b=b"", whole_c=LINES * 1000)
    graph.read(2)
    graph.save()
    graph.up_to(5)
    graph.counts()
    graph.read()
    yield graph.case("files")
    graph = Graph("WholeFileReaderV2")
    graph.put("/nowhere/at all")
    graph.put(case_file("whole_a", b"content \x00 of a"))
    graph.do("close")
    graph.read()
    graph.counts()
    graph.read(2)
    graph.do("reset")
    graph.read()
    yield graph.case("missing")


def _lines() -> Iterator[Case]:
    graph = Graph("TextLineReaderV2")
    graph.files(lines_a=LINES, lines_b=b"", lines_c=b"one\n")
    graph.read(3)
    graph.counts()
    graph.up_to(4)
    graph.up_to(4)
    graph.counts()
    graph.read(2)
    yield graph.case("lines")
    graph = Graph("TextLineReaderV2", skip_header_lines=2)
    graph.files(lines_a=LINES, lines_c=b"one\n", lines_d=b"1\n2\n3\n4\n5\n6\n")
    graph.read(2)
    graph.do("reset")
    graph.read()
    graph.counts()
    graph.up_to(10)
    graph.up_to(10)
    yield graph.case("header")
    graph = Graph("TextLineReaderV2")
    graph.put("/nowhere/at all")
    graph.put(case_file("lines_a", LINES))
    graph.do("close")
    graph.read()
    graph.counts()
    graph.read(2)
    yield graph.case("missing")
    graph = Graph("TextLineReaderV2", skip_header_lines=-1)
    graph.counts()
    yield graph.case("negative")


def _records() -> Iterator[Case]:
    good = frames(RECORDS)
    for compression, content in (("", good), ("GZIP", gzip.compress(good, mtime=0)), ("ZLIB", zlib.compress(good))):
        graph = Graph("TFRecordReaderV2", compression_type=compression)
        name = f"records_{compression}"
        graph.files(**{name: content, f"{name}_b": content})
        graph.read(2)
        graph.counts()
        graph.up_to(2)
        graph.up_to(7)
        graph.counts()
        graph.read()
        yield graph.case(compression or "plain")
    damaged = bytearray(good)
    damaged[14] ^= 1
    for name, content in (("checksum", bytes(damaged)), ("cut", good[:-10]), ("text", LINES), ("empty", b"")):
        graph = Graph("TFRecordReaderV2")
        graph.files(**{f"damaged_{name}": content})
        graph.read(2)
        graph.counts()
        yield graph.case(f"damaged, {name}")
    graph = Graph("TFRecordReaderV2", compression_type="LZMA")
    graph.put("/nowhere")
    graph.do("close")
    graph.read()
    yield replace(graph.case("unknown compression"), text=False)


def _fixed() -> Iterator[Case]:
    content = bytes(range(64, 64 + 40))
    for attrs in ({"record_bytes": 5}, {"record_bytes": 7}, {"record_bytes": 4, "header_bytes": 3, "footer_bytes": 5},
                  {"record_bytes": 6, "hop_bytes": 2, "header_bytes": 1},
                  {"record_bytes": 3, "hop_bytes": 10, "footer_bytes": 2}, {"record_bytes": 50},
                  {"record_bytes": 4, "header_bytes": 60}, {"record_bytes": 4, "header_bytes": 10, "footer_bytes": 40}):
        graph = Graph("FixedLengthRecordReaderV2", **attrs)
        graph.files(fixed_a=content, fixed_b=content[:10])
        graph.read(2)
        graph.up_to(20)
        graph.up_to(20)
        graph.counts()
        yield graph.case(",".join(f"{key} {value}" for key, value in attrs.items()))
    graph = Graph("FixedLengthRecordReaderV2", record_bytes=8, encoding="ZLIB")
    graph.files(fixed_zlib=zlib.compress(content))
    graph.read(2)
    graph.up_to(20)
    yield graph.case("ZLIB")
    for name in ("record_bytes", "header_bytes", "footer_bytes", "hop_bytes"):
        graph = Graph("FixedLengthRecordReaderV2", **{"record_bytes": 8, name: -1})
        graph.counts()
        yield graph.case(f"negative {name}")
    graph = Graph("FixedLengthRecordReaderV2", record_bytes=8, encoding="LZMA")
    graph.counts()
    yield replace(graph.case("unknown encoding"), text=False)


def _queues() -> Iterator[Case]:
    graph = Graph("IdentityReaderV2", [S, L])
    graph.put("a", 1)
    graph.read()
    yield graph.case("two components", "ReaderReadV2")
    graph = Graph("IdentityReaderV2", [L])
    graph.put(1)
    graph.read()
    yield graph.case("no strings", "ReaderReadV2")
    graph = Graph("IdentityReaderV2")
    graph.put(["a", "b"])
    graph.put(["c"])
    graph.read(2)
    graph.counts()
    yield graph.case("vectors", "ReaderReadV2")


def _files() -> Iterator[Case]:
    folder = str(case_folder())
    (case_folder() / "folder").mkdir(exist_ok=True)
    for name in ("match_a.txt", "match_b.txt", ".match", "match_[x]", "match_c"):
        case_file(name, b"content of " + name.encode())
    for name in ("match_a.txt", "match_nothing", "folder", "match_a.txt/x"):
        yield op_case("ReadFile", f"{folder}/{name}", name=name)
    yield op_case("ReadFile", as_array(["a", "b"]))
    patterns = ("match_*", "*match*", "match_?.txt", "match_[ab].txt", "match_[!a].txt", "match_[^a-b]*",
                "match_\\[x\\]", "match_[[]x]", ".mat*", "m*", "match_a.txt", "nothing/*",
                f"../{case_folder().name}*/match_a.txt", "match_[c", "match_[b-a]*", "match_a.txt/*", "match_[]x]*")
    for pattern in patterns:
        yield op_case("MatchingFiles", f"{folder}/{pattern}", name=pattern)
    yield op_case("MatchingFiles", as_array([f"{folder}/match_b*", f"{folder}/match_a*", f"{folder}/match_[a-z].txt"]))
    yield op_case("MatchingFiles", as_array([["a"]]))
    yield op_case("MatchingFiles", "")
    yield op_case("MatchingFiles", as_array(["/", "/nowhere/*"]))
    for name, content in (("written", b"content \x00"), ("folder/new/file", b""), ("match_a.txt/x", b"a"),
                          ("folder", b"a")):
        path, written = as_array(f"{folder}/{name}"), np.array(content, object)
        nodes = [*fed(path=path, content=written), node("WriteFile", "write", ["path", "content"]),
                 node("ReadFile", "read", ["path"])]
        yield graph_case("WriteFile", name, nodes, Run({"path:0": path, "content:0": written}, [], ["write"]),
                         Run({"path:0": path}, ["read:0"]))
    yield op_case("WriteFile", as_array(["a"]), "b")
    yield op_case("WriteFile", f"{folder}/unwritten", as_array(["b"]))
