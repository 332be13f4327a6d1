"""Writing frames and the header blocks of gRPC; the numbers and limits are in the declarations.

Used by `runtime._ext.http2` and `runtime._ext.http2_call`.

Sources: RFC 9113 (HTTP/2), "gRPC over HTTP2" of the gRPC project.
"""

from base64 import b64encode
from urllib.parse import quote_from_bytes

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.string cimport memcpy

from runtime._ext.errors import InvalidArgument
from runtime._ext.hpack cimport encode_headers

cdef object _MESSAGE_SAFE = "".join(chr(code) for code in range(0x20, 0x7F) if chr(code) != "%")


cdef bytes frame_bytes(int kind, int flags, uint32_t stream, bytes payload):
    cdef Py_ssize_t size = PyBytes_GET_SIZE(payload)
    cdef bytes result = PyBytes_FromStringAndSize(NULL, FRAME_HEADER + size)
    cdef char *out = PyBytes_AS_STRING(result)
    put_header(out, size, kind, flags, stream)
    memcpy(out + FRAME_HEADER, PyBytes_AS_STRING(payload), size)
    return result


cdef bytes uint32_bytes(int64_t value):
    cdef char out[4]
    out[0] = <char>((value >> 24) & 0xFF)
    out[1] = <char>((value >> 16) & 0xFF)
    out[2] = <char>((value >> 8) & 0xFF)
    out[3] = <char>(value & 0xFF)
    return PyBytes_FromStringAndSize(out, 4)


cdef bytes setting(int identifier, int64_t value):
    return bytes((identifier >> 8, identifier & 0xFF)) + uint32_bytes(value)


cdef bytes trailer_block(int code, str message, object trailing, bint with_headers):
    """Return the header block that ends a call; with the response headers in it when none were sent."""
    cdef list fields = []
    if with_headers:
        fields.append((b":status", b"200"))
        fields.append((b"content-type", b"application/grpc"))
    fields.append((b"grpc-status", b"%d" % code))
    if message:
        quoted = quote_from_bytes(message.encode("utf-8", "surrogatepass"), safe=_MESSAGE_SAFE).encode()
        # A header's value neither begins nor ends with a blank (RFC 9113, section 8.2.1).
        bare = quoted.strip(b" ")
        if bare != quoted:
            before = len(quoted) - len(quoted.lstrip(b" "))
            quoted = b"%20" * before + bare + b"%20" * (len(quoted) - before - len(bare))
        fields.append((b"grpc-message", quoted))
    for key, value in trailing or ():
        name = key.lower().encode() if isinstance(key, str) else key
        if name.endswith(b"-bin"):
            value = b64encode(value).rstrip(b"=")
        fields.append((name, value.encode() if isinstance(value, str) else value))
    return encode_headers(fields)


@cython.wraparound(True)
cdef double timeout_s(bytes text) except -1:
    """Return a ``grpc-timeout`` (at most 8 digits and a unit) in seconds."""
    cdef double scale
    units = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
    unit = units.get(text[-1:])
    if unit is None or not text[:-1].isdigit() or len(text) > 9:
        raise InvalidArgument(f"grpc-timeout {text!r} is not up to 8 digits and one of H M S m u n")
    scale = unit
    return int(text[:-1]) * scale
