"""Header compression of HTTP/2: a decoder with its dynamic table, and an encoder that needs none.

The decoder keeps entries as tuples of bytes, so that a field which a client repeats in every request costs an index and
no allocation. The encoder writes literals that are never indexed: answers carry two or three short fields, and a stateless
encoding lets them be prepared once for all connections. Used by `runtime._ext.http2`.

Source: RFC 7541.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE

from runtime._ext.errors import InvalidArgument, ResourceExhausted

cdef extern from "hpack_tables.h":
    ctypedef struct trt_huffman_code:
        unsigned int code
        int bits

    ctypedef struct trt_static_header:
        const char *name
        const char *value

    const trt_huffman_code trt_huffman_codes[257]
    const trt_static_header trt_static_headers[61]


cdef enum:
    STATIC_ENTRIES = 61
    ENTRY_OVERHEAD = 32
    DEFAULT_TABLE_BYTES = 4096
    END_OF_STRING = 256
    # A prefix code of 257 symbols has 256 inner nodes.
    TREE_NODES = 256

# children[node][bit]: an inner node's number, or -1 - symbol for a leaf
cdef short _tree[TREE_NODES][2]
cdef tuple _static_table


cdef int _build_tree() except -1:
    cdef int symbol, position, bit, node, used = 1
    cdef unsigned int code
    cdef int bits
    for node in range(TREE_NODES):
        _tree[node][0] = 0
        _tree[node][1] = 0
    for symbol in range(257):
        code = trt_huffman_codes[symbol].code
        bits = trt_huffman_codes[symbol].bits
        node = 0
        for position in range(bits - 1, 0, -1):
            bit = (code >> position) & 1
            if _tree[node][bit] == 0:
                _tree[node][bit] = used
                used += 1
            node = _tree[node][bit]
        _tree[node][code & 1] = -1 - symbol
    return 0


_build_tree()
_static_table = tuple([(<bytes>trt_static_headers[index].name, <bytes>trt_static_headers[index].value)
                       for index in range(STATIC_ENTRIES)])


cdef bytes _huffman_decode(const unsigned char *data, Py_ssize_t size):
    """Decode a Huffman string; the shortest code has 5 bits, so the result has at most 8/5 of the length."""
    cdef bytes result = PyBytes_FromStringAndSize(NULL, size * 8 // 5 + 1)
    cdef char *out = PyBytes_AS_STRING(result)
    cdef Py_ssize_t position, length = 0
    cdef int node = 0, child, shift, depth = 0
    cdef bint ones = True
    cdef unsigned char byte
    for position in range(size):
        byte = data[position]
        for shift in range(7, -1, -1):
            depth += 1
            ones = ones and (byte >> shift) & 1
            child = _tree[node][(byte >> shift) & 1]
            if child < 0:
                if child == -1 - END_OF_STRING:
                    raise InvalidArgument("HPACK: a Huffman string contains the end-of-string code")
                out[length] = <char>(-1 - child)
                length += 1
                node = 0
                depth = 0
                ones = True
            else:
                node = child
    if depth > 7 or not ones:
        raise InvalidArgument("HPACK: a Huffman string ends in padding that is not a prefix of end-of-string")
    return result[:length]


cdef Py_ssize_t _read_integer(const unsigned char *data, Py_ssize_t size, Py_ssize_t *position,
                              int prefix_bits) except -1:
    """Read an integer with an N-bit prefix (section 5.1); at most 2**28, far above any length that is accepted."""
    cdef Py_ssize_t mask = (1 << prefix_bits) - 1
    cdef Py_ssize_t value
    cdef int shift = 0
    cdef unsigned char byte
    if position[0] >= size:
        raise InvalidArgument("HPACK: the header block ends inside an integer")
    value = data[position[0]] & mask
    position[0] += 1
    if value < mask:
        return value
    while True:
        if position[0] >= size:
            raise InvalidArgument("HPACK: the header block ends inside an integer")
        byte = data[position[0]]
        position[0] += 1
        if shift > 21:
            raise InvalidArgument("HPACK: an integer is larger than 2**28")
        value += <Py_ssize_t>(byte & 0x7F) << shift
        shift += 7
        if not byte & 0x80:
            return value


cdef bytes _read_string(const unsigned char *data, Py_ssize_t size, Py_ssize_t *position):
    cdef bint is_huffman
    cdef Py_ssize_t length
    if position[0] >= size:
        raise InvalidArgument("HPACK: the header block ends where a string should begin")
    is_huffman = data[position[0]] & 0x80
    length = _read_integer(data, size, position, 7)
    if length > size - position[0]:
        raise InvalidArgument(f"HPACK: a string of {length} bytes, but {size - position[0]} are left in the block")
    cdef const unsigned char *start = data + position[0]
    position[0] += length
    if is_huffman:
        return _huffman_decode(start, length)
    return PyBytes_FromStringAndSize(<const char *>start, length)


cdef class HeaderDecoder:
    """Decode the header blocks of one connection, in order.

    Parameters
    ----------
    max_list_bytes : int
        Largest header list, counted with 32 bytes per field as RFC 9113 section 10.5.1 does; a longer one raises
        ResourceExhausted. It bounds what one small block of indices can unfold to.
    """

    def __cinit__(self, Py_ssize_t max_list_bytes=65536):
        self._table = []
        self._table_bytes = 0
        self._max_bytes = DEFAULT_TABLE_BYTES
        self.max_list_bytes = max_list_bytes

    def decode_block(self, bytes block):
        """Return the fields of a header block as a list of (name, value) tuples of bytes."""
        return self.decode(<const unsigned char *>PyBytes_AS_STRING(block), PyBytes_GET_SIZE(block))

    cdef list decode(self, const unsigned char *data, Py_ssize_t size):
        cdef list fields = []
        cdef Py_ssize_t position = 0, index, total = 0
        cdef unsigned char first
        cdef tuple entry
        cdef bytes name, value
        while position < size:
            first = data[position]
            if first & 0x80:  # indexed field
                index = _read_integer(data, size, &position, 7)
                entry = self._entry(index)
            elif first & 0x40:  # literal, to be indexed
                index = _read_integer(data, size, &position, 6)
                name = <bytes>self._entry(index)[0] if index else _read_string(data, size, &position)
                value = _read_string(data, size, &position)
                entry = (name, value)
                self._insert(entry)
            elif first & 0x20:  # table size update
                index = _read_integer(data, size, &position, 5)
                if fields:
                    raise InvalidArgument("HPACK: a table size update after the first field of a block")
                if index > DEFAULT_TABLE_BYTES:
                    raise InvalidArgument(f"HPACK: table size {index} is above the limit of {DEFAULT_TABLE_BYTES}")
                self._max_bytes = index
                self._evict()
                continue
            else:  # literal, not indexed or never indexed
                index = _read_integer(data, size, &position, 4)
                name = <bytes>self._entry(index)[0] if index else _read_string(data, size, &position)
                value = _read_string(data, size, &position)
                entry = (name, value)
            total += PyBytes_GET_SIZE(<bytes>entry[0]) + PyBytes_GET_SIZE(<bytes>entry[1]) + ENTRY_OVERHEAD
            if total > self.max_list_bytes:
                raise ResourceExhausted(f"header list larger than {self.max_list_bytes} bytes")
            fields.append(entry)
        return fields

    cdef tuple _entry(self, Py_ssize_t index):
        cdef Py_ssize_t count = len(self._table)
        if 1 <= index <= STATIC_ENTRIES:
            return <tuple>_static_table[index - 1]
        index -= STATIC_ENTRIES + 1
        if index < 0 or index >= count:
            raise InvalidArgument(f"HPACK: index {index + STATIC_ENTRIES + 1} is beyond the tables "
                                  f"({STATIC_ENTRIES + count} entries)")
        return <tuple>self._table[count - 1 - index]

    cdef int _insert(self, tuple entry) except -1:
        self._table.append(entry)
        self._table_bytes += len(entry[0]) + len(entry[1]) + ENTRY_OVERHEAD
        return self._evict()

    cdef int _evict(self) except -1:
        cdef Py_ssize_t drop = 0
        while self._table_bytes > self._max_bytes:
            entry = self._table[drop]
            self._table_bytes -= len(entry[0]) + len(entry[1]) + ENTRY_OVERHEAD
            drop += 1
        if drop:
            del self._table[:drop]
        return 0


cdef int _write_length(bytearray out, Py_ssize_t value, int prefix_bits, int flags) except -1:
    cdef Py_ssize_t mask = (1 << prefix_bits) - 1
    if value < mask:
        out.append(flags | value)
        return 0
    out.append(flags | mask)
    value -= mask
    while value >= 0x80:
        out.append((value & 0x7F) | 0x80)
        value >>= 7
    out.append(value)
    return 0


cdef bytes encode_headers(object headers):
    """Encode (name, value) pairs of bytes as literals that are not indexed; ``:status 200`` as its static index."""
    cdef bytearray out = bytearray()
    for name, value in headers:
        if name == b":status" and value == b"200":
            out.append(0x88)
            continue
        out.append(0)
        _write_length(out, len(name), 7, 0)
        out += name
        _write_length(out, len(value), 7, 0)
        out += value
    return bytes(out)


def encode_block(headers):
    """Return (name, value) pairs of bytes as a header block; see `encode_headers`."""
    return encode_headers(headers)
