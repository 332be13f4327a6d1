"""A server that computes nothing: what is left of a large step when a server costs next to nothing.

``python -m runtime.bench.canned_server`` listens on a free port and prints ``ready grpc://HOST:PORT``. It speaks just
enough of HTTP/2 for one TensorFlow client at a time on blocking sockets, one thread a connection. What comes is read
into one warm buffer, over and over, and not looked at but for the frames' heads; a step is answered with the bytes that
its signature was answered with before: zeros, of the shape of the first feed for every fetch. So a call takes what the
client and the kernel's sockets take: a floor, as far as a simple server on blocking sockets finds it.
"""

from __future__ import annotations

import argparse
import socket
import threading
from typing import Any

import numpy as np

from runtime import wire
from runtime._ext.hpack import HeaderDecoder, encode_block
from runtime._ext.step_codec import encode_run_step_response, scan_run_step

__all__ = ["main"]

# Frames of HTTP/2 (RFC 9113, section 6) and their flags.
DATA, HEADERS, SETTINGS, PING, WINDOW_UPDATE = 0, 1, 4, 6, 8
END_STREAM, END_HEADERS, ACK = 1, 4, 1
PREFACE_BYTES = 24
READ_BYTES = 1 << 20
# The largest that HTTP/2 has, so that nothing waits for a window that this side gives.
WINDOW = 0x7FFFFFFF
MAX_FRAME = (1 << 24) - 1

_ANSWER_HEAD = encode_block([(b":status", b"200"), (b"content-type", b"application/grpc")])
_ANSWER_END = encode_block([(b"grpc-status", b"0")])


def _head(size: int, kind: int, flags: int, stream: int) -> bytes:
    return size.to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big")


class CannedConnection:
    """One client's connection, served until it closes.

    Parameters
    ----------
    connection : socket.socket
    answers : dict
        From a step's size in bytes to the message that answers it; shared by all connections.
    """

    def __init__(self, connection: socket.socket, answers: dict[int, bytes]) -> None:
        self._socket = connection
        self._answers = answers
        self._buffer = memoryview(bytearray(READ_BYTES))
        self._start = self._end = 0
        self._headers = HeaderDecoder()
        self._paths: dict[int, bytes] = {}
        self._messages: dict[int, bytearray | int] = {}  # or how long one is that need not be kept
        self._received = 0
        self._window = 65535
        self._stream_window = 65535
        self._windows: dict[int, int] = {}
        self._max_frame = 16384

    def run(self) -> None:
        """Serve until the client closes the connection."""
        with self._socket:
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            settings = b"".join(number.to_bytes(2, "big") + value.to_bytes(4, "big")
                                for number, value in ((4, WINDOW), (5, MAX_FRAME)))
            update = (WINDOW - 65535).to_bytes(4, "big")
            self._socket.sendall(_head(len(settings), SETTINGS, 0, 0) + settings + _head(4, WINDOW_UPDATE, 0, 0)
                                 + update)
            try:
                self._take(PREFACE_BYTES)
                while True:
                    self._frame()
            except (ConnectionError, EOFError):
                return

    # What comes.

    def _fill(self) -> None:
        if self._start == self._end:
            self._start = self._end = 0
        elif self._end == READ_BYTES:
            rest = bytes(self._buffer[self._start : self._end])
            self._buffer[: len(rest)] = rest
            self._start, self._end = 0, len(rest)
        size = self._socket.recv_into(self._buffer[self._end :])
        if size == 0:
            raise EOFError
        self._end += size

    def _take(self, size: int) -> bytes:
        """Return that many of the next bytes; no more than the buffer holds."""
        while self._end - self._start < size:
            self._fill()
        found = bytes(self._buffer[self._start : self._start + size])
        self._start += size
        return found

    def _frame(self) -> None:
        head = self._take(9)
        size, kind, flags = int.from_bytes(head[:3], "big"), head[3], head[4]
        stream = int.from_bytes(head[5:], "big") & WINDOW
        if kind == DATA:
            self._data(stream, size)
            if flags & END_STREAM:
                self._answer(stream)
            return
        content = self._take(size)
        if kind == HEADERS:
            self._paths[stream] = dict(self._headers.decode_block(content))[b":path"].rpartition(b"/")[2]
            self._windows[stream] = self._stream_window
        elif kind == SETTINGS and not flags & ACK:
            self._settings(content)
        elif kind == PING and not flags & ACK:
            self._socket.sendall(_head(8, PING, ACK, 0) + content)
        elif kind == WINDOW_UPDATE:
            increment = int.from_bytes(content, "big")
            if stream == 0:
                self._window += increment
            elif stream in self._windows:
                self._windows[stream] += increment

    def _settings(self, content: bytes) -> None:
        for place in range(0, len(content), 6):
            number = int.from_bytes(content[place : place + 2], "big")
            value = int.from_bytes(content[place + 2 : place + 6], "big")
            if number == 4:
                for stream in self._windows:
                    self._windows[stream] += value - self._stream_window
                self._stream_window = value
            elif number == 5:
                self._max_frame = value
        self._socket.sendall(_head(0, SETTINGS, ACK, 0))

    def _data(self, stream: int, size: int) -> None:
        known = self._messages.get(stream)
        if known is None:
            prefix = self._take(5)
            size -= 5
            length = int.from_bytes(prefix[1:], "big")
            known = length if self._paths[stream] == b"RunStep" and length in self._answers else bytearray()
            self._messages[stream] = known
            self._received += 5
        self._received += size
        while size:
            if self._start == self._end:
                self._fill()
            part = min(size, self._end - self._start)
            if isinstance(known, bytearray):
                known += self._buffer[self._start : self._start + part]
            self._start += part
            size -= part
        if self._received > WINDOW // 2:
            self._socket.sendall(_head(4, WINDOW_UPDATE, 0, 0) + self._received.to_bytes(4, "big"))
            self._received = 0

    # What goes.

    def _answer(self, stream: int) -> None:
        message, path = self._messages.pop(stream), self._paths.pop(stream)
        if path == b"RunStep":
            if isinstance(message, bytearray):
                self._answers[len(message)] = _step_answer(bytes(message))
            answer = self._answers[message if isinstance(message, int) else len(message)]
        elif path == b"CreateSession":
            answer = wire.CreateSessionResponse(session_handle="canned").SerializeToString()
        elif path == b"ExtendSession":
            answer = wire.ExtendSessionResponse(new_graph_version=1).SerializeToString()
        else:
            answer = b""
        self._send(stream, answer)
        del self._windows[stream]

    def _send(self, stream: int, answer: bytes) -> None:
        parts: list[Any] = [_head(len(_ANSWER_HEAD), HEADERS, END_HEADERS, stream), _ANSWER_HEAD]
        prefix = b"\0" + len(answer).to_bytes(4, "big")
        view, place = memoryview(answer), 0
        while place < len(answer) or prefix:
            room = min(self._window, self._windows[stream], self._max_frame) - len(prefix)
            if room <= 0:
                self._send_all(parts)
                parts = []
                self._frame()
                continue
            size = min(room, len(answer) - place)
            parts += [_head(size + len(prefix), DATA, 0, stream), prefix, view[place : place + size]]
            self._window -= size + len(prefix)
            self._windows[stream] -= size + len(prefix)
            place += size
            prefix = b""
        parts += [_head(len(_ANSWER_END), HEADERS, END_HEADERS | END_STREAM, stream), _ANSWER_END]
        self._send_all(parts)

    def _send_all(self, parts: list[Any]) -> None:
        pending = [memoryview(part) for part in parts if len(part)]
        while pending:
            sent = self._socket.sendmsg(pending[:512])
            while pending and sent >= len(pending[0]):
                sent -= len(pending.pop(0))
            if sent:
                pending[0] = pending[0][sent:]


def _step_answer(request: bytes) -> bytes:
    call = scan_run_step(request)
    zeros = np.zeros_like(call.feed_values[0]) if call.feed_values else np.zeros((), np.float32)
    return encode_run_step_response(call.fetches, [zeros] * len(call.fetches))


def main() -> None:
    """Serve until killed."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    answers: dict[int, bytes] = {}
    with socket.create_server(("127.0.0.1", 0)) as server:
        print(f"ready grpc://127.0.0.1:{server.getsockname()[1]}", flush=True)
        while True:
            connection, _ = server.accept()
            threading.Thread(target=CannedConnection(connection, answers).run, daemon=True).start()


if __name__ == "__main__":
    main()
