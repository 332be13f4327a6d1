"""Content in chunks: cut without copying at one end, put in its place at the other, with a checksum for each chunk.

`ChunkWriter` and `ChunkReader` are the two ends of one stream of bytes, as states and messages: they do no I/O and wait
for nothing. A writer sends only what it has credit for, and a reader gives credit as its content is used up, so what
lies between the two is bounded. Tensors, payloads of tasks and logs all travel this way; the message is
``runtime.v1.Chunk``.

The checksum is taken while the bytes are copied, where they are copied; what is sent from its own memory is only read.
It covers the place of the chunk, too, so that one cannot pass for another.

Not safe from several threads at a time. The GIL is released while large chunks are copied or summed up.
"""

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.memoryview cimport PyMemoryView_FromObject
from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from runtime._ext.message_parts cimport MessageParts
from runtime._ext.wirefault cimport raise_wire
from runtime._ext.wirescan cimport WIRE_TRUNCATED, Cursor, Span, read_span, read_tag, read_varint, skip_field

from collections import deque

from runtime._ext.errors import DataLoss, FailedPrecondition, InvalidArgument, ResourceExhausted

cdef extern from "crc32c.h" nogil:
    ctypedef uint32_t (*crc32c_fn)(uint32_t crc, const unsigned char *data, size_t size)
    ctypedef uint32_t (*crc32c_copy_fn)(uint32_t crc, unsigned char *to, const unsigned char *source, size_t size)
    crc32c_fn crc32c_choose()
    crc32c_copy_fn crc32c_copy_choose()
    uint32_t crc32c_copy_by_tables(uint32_t crc, unsigned char *to, const unsigned char *source, size_t size)

cdef crc32c_fn _sum = crc32c_choose()
cdef crc32c_copy_fn _copy = crc32c_copy_choose()

DEFAULT_CHUNK_BYTES = 1 << 20
# What a peer may send in one chunk, whatever was agreed on: it is held while it is checked.
MAX_CHUNK_BYTES = 64 << 20
DEFAULT_WINDOW = 8

cdef enum:
    WITHOUT_GIL = 16384  # bytes from which releasing the GIL is worth it
    MAX_HEAD = 64

cdef enum:  # tags of runtime.v1.Chunk
    ITEM = 1 << 3 | 0
    SEQUENCE = 2 << 3 | 0
    OFFSET = 3 << 3 | 0
    CRC32C = 4 << 3 | 5
    IS_LAST = 5 << 3 | 0
    RAW_BYTES = 6 << 3 | 0
    CONTENT = 7 << 3 | 2


cdef struct Head:
    uint64_t item
    uint64_t sequence
    uint64_t offset
    uint32_t crc
    bint is_last
    uint64_t raw_bytes  # 0 where the content is not compressed
    Span content


cdef inline uint8_t* _put_varint(uint8_t* out, int tag, uint64_t value) noexcept nogil:
    out[0] = <uint8_t>tag
    out += 1
    while value >= 0x80:
        out[0] = <uint8_t>(value | 0x80)
        value >>= 7
        out += 1
    out[0] = <uint8_t>value
    return out + 1


cdef Py_ssize_t _put_head(uint8_t* out, Head* head, uint32_t** crc_at) noexcept nogil:
    """Write everything before the content; `crc_at` says where the checksum belongs, which may not be known yet."""
    cdef uint8_t* p = out
    if head.item:
        p = _put_varint(p, ITEM, head.item)
    if head.sequence:
        p = _put_varint(p, SEQUENCE, head.sequence)
    if head.offset:
        p = _put_varint(p, OFFSET, head.offset)
    if head.is_last:
        p = _put_varint(p, IS_LAST, 1)
    if head.raw_bytes:
        p = _put_varint(p, RAW_BYTES, head.raw_bytes)
    p[0] = CRC32C
    crc_at[0] = <uint32_t*>(p + 1)
    p += 5
    return _put_varint(p, CONTENT, <uint64_t>head.content.n) - out


cdef inline void _put_crc(void* at, uint32_t crc) noexcept nogil:
    cdef uint8_t* out = <uint8_t*>at
    out[0] = <uint8_t>crc
    out[1] = <uint8_t>(crc >> 8)
    out[2] = <uint8_t>(crc >> 16)
    out[3] = <uint8_t>(crc >> 24)


cdef uint32_t _seed(Head* head) noexcept nogil:
    """Return the checksum of what stands in the head: a chunk that went astray has another one."""
    cdef uint8_t field[25]
    cdef int at
    for at in range(8):
        field[at] = <uint8_t>(head.item >> (8 * at))
        field[8 + at] = <uint8_t>(head.sequence >> (8 * at))
        field[16 + at] = <uint8_t>(head.offset >> (8 * at))
    field[24] = 1 if head.is_last else 0
    return _sum(0, field, 25)


cdef int _scan(const uint8_t* data, Py_ssize_t size, Head* head) except -1:
    """Read a Chunk; its content stays where it is."""
    cdef Cursor c
    cdef uint32_t tag
    cdef uint64_t value = 0
    cdef int status
    c.base = c.p = data
    c.end = data + size
    head.item = head.sequence = head.offset = head.raw_bytes = 0
    head.crc = 0
    head.is_last = False
    head.content.p = data
    head.content.n = 0
    while c.p < c.end:
        tag = 0
        status = read_tag(&c, &tag)
        if not status:
            if tag == CONTENT:
                status = read_span(&c, &head.content)
            elif tag == CRC32C:
                if c.end - c.p < 4:
                    status = WIRE_TRUNCATED
                else:
                    head.crc = (<uint32_t>c.p[0] | <uint32_t>c.p[1] << 8 | <uint32_t>c.p[2] << 16
                                | <uint32_t>c.p[3] << 24)
                    c.p += 4
            elif tag == ITEM or tag == SEQUENCE or tag == OFFSET or tag == IS_LAST or tag == RAW_BYTES:
                status = read_varint(&c, &value)
                if tag == ITEM:
                    head.item = value
                elif tag == SEQUENCE:
                    head.sequence = value
                elif tag == OFFSET:
                    head.offset = value
                elif tag == IS_LAST:
                    head.is_last = value != 0
                else:
                    head.raw_bytes = value
            else:
                status = skip_field(&c, tag)
        if status:
            raise_wire("Chunk", tag, status, &c)
    return 0


def chunk_item(bytes message not None):
    """Return which item of a parcel a Chunk belongs to.

    Raises
    ------
    InvalidArgument
        The message is damaged.
    """
    cdef Head head
    _scan(<const uint8_t*>PyBytes_AS_STRING(message), PyBytes_GET_SIZE(message), &head)
    return head.item


def copy_with_checksum(to, source, uint32_t start=0, bint portable=False):
    """Copy a contiguous buffer into another of the same size and return its CRC-32C.

    Parameters
    ----------
    to : writable buffer
    source : buffer
    start : int
        The checksum of what stands before.
    portable : bool
        Do it without the processor's instruction; for tests.
    """
    cdef Py_buffer out, data
    PyObject_GetBuffer(to, &out, PyBUF_SIMPLE | PyBUF_WRITABLE)
    try:
        PyObject_GetBuffer(source, &data, PyBUF_SIMPLE)
        try:
            if out.len != data.len:
                raise InvalidArgument(f"to has {out.len} bytes, and source {data.len}")
            if portable:
                return crc32c_copy_by_tables(start, <unsigned char*>out.buf, <const unsigned char*>data.buf, data.len)
            with nogil:
                start = _copy(start, <unsigned char*>out.buf, <const unsigned char*>data.buf, data.len)
            return start
        finally:
            PyBuffer_Release(&data)
    finally:
        PyBuffer_Release(&out)


def cut_with_checksum(content, Py_ssize_t chunk_bytes, uint32_t start=0):
    """Cut a content into chunks that are bytes of their own, and take its CRC-32C while they are copied.

    For messages of other services than ours, which take nothing else.

    Parameters
    ----------
    content : buffer
        Contiguous.
    chunk_bytes : int
        What a chunk holds at most, 1 or more.
    start : int
        The checksum of what stands before.

    Returns
    -------
    tuple of (list of bytes, int)
        None is empty; and the checksum.
    """
    cdef Py_buffer data, part
    cdef Py_ssize_t at = 0
    cdef bytes chunk
    cdef list chunks = []
    if chunk_bytes < 1:
        raise InvalidArgument(f"chunk_bytes is {chunk_bytes}; it must be at least 1")
    PyObject_GetBuffer(content, &data, PyBUF_SIMPLE)
    try:
        part = data
        while at < data.len:
            part.buf = <char*>data.buf + at
            part.len = min(chunk_bytes, data.len - at)
            chunk = PyBytes_FromStringAndSize(NULL, part.len)
            start = _copied(start, PyBytes_AS_STRING(chunk), &part)
            chunks.append(chunk)
            at += part.len
    finally:
        PyBuffer_Release(&data)
    return chunks, start


@cython.final
cdef class ChunkWriter:
    """The sending end.

    Parameters
    ----------
    content : buffer, optional
        Contiguous bytes, all that is to be sent; they must not change before everything is acknowledged. Left out, what
        is sent is appended piece by piece, as it comes.
    item : int
        Which item of a parcel this is.
    chunk_bytes : int
        What a chunk holds at most, 1 or more.
    credit : int
        Chunks that may be sent before the reader has said anything.
    limit_bytes : int
        What pieces may hold that are not acknowledged yet; without a meaning for `content`.
    compress : callable, optional
        ``compress(memoryview) -> bytes``, for each chunk; one that does not shrink travels as it is.

    Attributes
    ----------
    sequence, offset : int
        Of the next chunk.
    credit : int
        Chunks that may be sent now.
    acknowledged : int
        Bytes that the reader has in its place.
    is_sent, is_acknowledged : bool
        Whether the last chunk has been made; whether the reader has everything.

    Notes
    -----
    A chunk never spans two pieces.
    """
    cdef readonly uint64_t sequence
    cdef readonly uint64_t offset
    cdef readonly int64_t credit
    cdef readonly uint64_t acknowledged
    cdef readonly bint is_sent
    cdef readonly bint is_acknowledged
    cdef uint64_t _item
    cdef uint64_t _most_sequence  # as far as any stream came: what an earlier one sent may arrive yet
    cdef uint64_t _most_offset
    cdef Py_ssize_t _chunk_bytes
    cdef uint64_t _limit_bytes
    cdef object _pieces         # deque of (offset of the first byte, memoryview), oldest first
    cdef uint64_t _appended     # bytes, of all pieces that ever were
    cdef bint _is_finished      # nothing will be appended any more
    cdef object _compress

    def __init__(self, content=None, uint64_t item=0, Py_ssize_t chunk_bytes=1 << 20, int64_t credit=0,
                 uint64_t limit_bytes=16 << 20, compress=None):
        if not 1 <= chunk_bytes <= MAX_CHUNK_BYTES:
            raise InvalidArgument(f"chunk_bytes is {chunk_bytes}; it must be 1 to {MAX_CHUNK_BYTES}")
        if credit < 0:
            raise InvalidArgument(f"credit is {credit}; it must not be negative")
        self._item = item
        self._chunk_bytes = chunk_bytes
        self._limit_bytes = limit_bytes
        self._compress = compress
        self.credit = credit
        self._pieces = deque()
        if content is not None:
            self._add(content)
            self._is_finished = True

    cdef int _add(self, content) except -1:
        view = memoryview(content)
        if not view.c_contiguous:
            raise InvalidArgument("the content to send must be contiguous")
        if view.nbytes:
            self._pieces.append((self._appended, view.cast("B")))
            self._appended += <uint64_t>view.nbytes
        return 0

    def append(self, content):
        """Add a piece, which must not change before it is acknowledged.

        Raises
        ------
        ResourceExhausted
            More than `limit_bytes` would wait; ask `room` before.
        FailedPrecondition
            The content is complete.
        """
        if self._is_finished:
            raise FailedPrecondition("nothing can be appended to a content that is complete")
        size = memoryview(content).nbytes
        if size > self.room and self._pieces:
            raise ResourceExhausted(f"a piece of {size} bytes does not fit: {self._appended - self.acknowledged} "
                                    f"bytes wait for the reader, and limit_bytes is {self._limit_bytes}")
        self._add(content)

    def finish(self):
        """Say that nothing will be appended any more."""
        self._is_finished = True

    @property
    def room(self):
        """Return how many bytes can be appended now."""
        cdef uint64_t waiting = self._appended - self.acknowledged
        return self._limit_bytes - waiting if waiting < self._limit_bytes else 0

    @property
    def has_next(self):
        """Tell whether `next` has a chunk to give."""
        return (not self.is_sent and self.credit > 0
                and (self.offset < self._appended or self._is_finished))

    def next(self, bint joined=False, Py_ssize_t max_bytes=0):
        """Return the next chunk, or None when there is none or no credit for it.

        Parameters
        ----------
        joined : bool
            Copy the content into one bytes object, with the checksum taken on the way, for transports that take nothing
            else.
        max_bytes : int
            What this chunk may hold, when that is less than `chunk_bytes`; 0 for no bound of its own.

        Returns
        -------
        bytes or MessageParts or None
            The parts share the content's memory.
        """
        cdef Head head
        cdef uint8_t buffer[MAX_HEAD]
        cdef uint32_t* crc_at = NULL
        cdef Py_buffer data
        cdef Py_ssize_t size, head_size
        cdef uint32_t crc
        cdef bytes message
        cdef char* out
        if self.is_sent or self.credit <= 0:
            return None
        view = self._piece(min(max_bytes, self._chunk_bytes) if max_bytes > 0 else self._chunk_bytes)
        if view is None and not self._is_finished:
            return None
        head.item = self._item
        head.sequence = self.sequence
        head.offset = self.offset
        head.raw_bytes = 0
        size = 0 if view is None else len(view)
        head.is_last = self._is_finished and self.offset + <uint64_t>size == self._appended
        content = b"" if view is None else view
        PyObject_GetBuffer(content, &data, PyBUF_SIMPLE)
        try:
            packed = None
            if self._compress is not None and size:
                packed = self._compress(view)
                if len(packed) < size:
                    head.raw_bytes = <uint64_t>size
                else:
                    packed = None
            head.content.n = size if packed is None else len(packed)
            head_size = _put_head(buffer, &head, &crc_at)
            if packed is None and (joined or size < WITHOUT_GIL):
                message = PyBytes_FromStringAndSize(NULL, head_size + size)
                out = PyBytes_AS_STRING(message)
                crc = _copied(_seed(&head), out + head_size, &data)
                _put_crc(crc_at, crc)
                memcpy(out, buffer, head_size)
                made = message
            else:
                crc = _summed(_seed(&head), &data)
                _put_crc(crc_at, crc)
                message = PyBytes_FromStringAndSize(<char*>buffer, head_size)
                if packed is None:
                    made = MessageParts([message, view])
                else:
                    made = message + packed
        finally:
            PyBuffer_Release(&data)
        self.credit -= 1
        self.sequence += 1
        self.offset += <uint64_t>size
        self._most_sequence = max(self._most_sequence, self.sequence)
        self._most_offset = max(self._most_offset, self.offset)
        self.is_sent = head.is_last
        return made

    cdef object _piece(self, Py_ssize_t chunk_bytes):
        """Return the bytes of the next chunk; None when nothing is there."""
        cdef uint64_t start
        cdef Py_ssize_t at
        for start, view in self._pieces:
            if self.offset < start + <uint64_t>len(view):
                at = <Py_ssize_t>(self.offset - start)
                return view[at:at + chunk_bytes]
        return None

    def grant(self, int64_t chunks):
        """Take credit for so many more chunks.

        Raises
        ------
        InvalidArgument
            The number is negative.
        """
        if chunks < 0:
            raise InvalidArgument(f"a credit of {chunks} chunks was granted; it must not be negative")
        self.credit = min(self.credit + chunks, <int64_t>1 << 40)

    def acknowledge(self, uint64_t offset):
        """Note that the reader has everything before `offset`; memory of pieces before it is let go.

        Raises
        ------
        InvalidArgument
            That was not sent yet.
        """
        if offset > self._most_offset:
            raise InvalidArgument(f"{offset} bytes were acknowledged; {self._most_offset} were sent")
        offset = min(offset, self.offset)  # what lies between is sent again, and the reader asks for a new stream
        if offset > self.acknowledged:
            self.acknowledged = offset
        while self._pieces and self._pieces[0][0] + <uint64_t>len(self._pieces[0][1]) <= self.acknowledged:
            self._pieces.popleft()
        self.is_acknowledged = self.is_sent and self.acknowledged == self._appended

    def resume(self, uint64_t sequence, uint64_t offset, int64_t credit, bint is_complete=False):
        """Go on where the reader stands, on a new stream.

        Parameters
        ----------
        sequence, offset, is_complete : int, int, bool
            `ChunkReader.next_sequence`, `next_offset` and `is_complete`.
        credit : int
            Chunks that may be sent on the new stream.

        Raises
        ------
        InvalidArgument
            The reader wants what was never sent, or acknowledged already.
        """
        if offset > self._most_offset or sequence > self._most_sequence:
            raise InvalidArgument(f"the reader wants to go on at byte {offset} (chunk {sequence}); sent were "
                                  f"{self._most_offset} bytes in {self._most_sequence} chunks")
        if offset < self.acknowledged:
            raise InvalidArgument(f"the reader wants to go on at byte {offset}; it has acknowledged "
                                  f"{self.acknowledged}")
        self.offset = offset
        self.sequence = sequence
        self.is_sent = is_complete
        self.credit = 0
        self.grant(credit)
        self.acknowledge(offset)


cdef uint32_t _copied(uint32_t crc, void* to, Py_buffer* data) noexcept:
    if data.len >= WITHOUT_GIL:
        with nogil:
            crc = _copy(crc, <unsigned char*>to, <const unsigned char*>data.buf, data.len)
    else:
        crc = _copy(crc, <unsigned char*>to, <const unsigned char*>data.buf, data.len)
    return crc


cdef uint32_t _summed(uint32_t crc, Py_buffer* data) noexcept:
    if data.len >= WITHOUT_GIL:
        with nogil:
            crc = _sum(crc, <const unsigned char*>data.buf, data.len)
    else:
        crc = _sum(crc, <const unsigned char*>data.buf, data.len)
    return crc


@cython.final
cdef class ChunkReader:
    """The receiving end.

    Parameters
    ----------
    destination : writable buffer, optional
        Contiguous; its size is what must come. Left out, `feed` hands out what comes.
    item : int
        Which item of a parcel this is.
    total : int
        Bytes that must come, where there is no destination; -1 when that is not known before the last chunk.
    window : int
        Chunks that the writer may be ahead, 1 or more.
    max_chunk_bytes : int
        What a chunk may hold.
    decompress : callable, optional
        ``decompress(memoryview, raw_bytes) -> bytes``; without it a compressed chunk is refused.
    name : str
        What errors call the content.

    Attributes
    ----------
    next_sequence, next_offset : int
        Of the chunk that must come next: all before it is in its place.
    is_complete : bool
    """
    cdef readonly uint64_t next_sequence
    cdef readonly uint64_t next_offset
    cdef readonly bint is_complete
    cdef uint64_t _item
    cdef int64_t _total
    cdef int64_t _window
    cdef int64_t _used          # chunks whose credit has not been given back
    cdef int64_t _outstanding   # chunks that the writer may still send
    cdef bint _gives_credit     # `take_credit` was called: who sends without credit is refused
    cdef uint64_t _max_chunk_bytes
    cdef object _decompress
    cdef str _name
    cdef Py_buffer _out
    cdef bint _has_out

    def __cinit__(self):
        self._has_out = False

    def __init__(self, destination=None, uint64_t item=0, int64_t total=-1, int64_t window=8,
                 uint64_t max_chunk_bytes=64 << 20, decompress=None, str name="the content"):
        if window < 1:
            raise InvalidArgument(f"window is {window}; it must be at least 1")
        if self._has_out:
            raise FailedPrecondition("a ChunkReader is made once")
        self._item = item
        self._window = window
        self._max_chunk_bytes = max_chunk_bytes
        self._decompress = decompress
        self._name = name
        self._total = total
        self._used = window
        if destination is not None:
            PyObject_GetBuffer(destination, &self._out, PyBUF_SIMPLE | PyBUF_WRITABLE)
            self._has_out = True
            self._total = self._out.len

    def __dealloc__(self):
        if self._has_out:
            PyBuffer_Release(&self._out)

    def feed(self, bytes message not None):
        """Take a chunk.

        Parameters
        ----------
        message : bytes
            A serialized ``runtime.v1.Chunk``.

        Returns
        -------
        memoryview or None
            The content, where there is no destination: a view of the message, or of what it unpacks to.

        Raises
        ------
        InvalidArgument
            The message is damaged, or a field is not what the agreement allows.
        DataLoss
            A chunk is missing, comes again, or differs from its checksum. Nothing is then taken, and the writer may go
            on from `next_sequence`.
        """
        cdef Head head
        cdef uint64_t size
        cdef uint32_t crc
        cdef Py_buffer data
        _scan(<const uint8_t*>PyBytes_AS_STRING(message), PyBytes_GET_SIZE(message), &head)
        size = head.raw_bytes if head.raw_bytes else <uint64_t>head.content.n
        self._check(&head, size)
        unpacked = None
        if head.raw_bytes:
            unpacked = self._unpacked(message, &head)
            PyObject_GetBuffer(unpacked, &data, PyBUF_SIMPLE)
        else:
            PyObject_GetBuffer(message, &data, PyBUF_SIMPLE)
            data.buf = <void*>head.content.p  # what the buffer keeps alive is its obj
            data.len = <Py_ssize_t>head.content.n
        try:
            if self._has_out:
                crc = _copied(_seed(&head), <char*>self._out.buf + head.offset, &data)
            else:
                crc = _summed(_seed(&head), &data)
        finally:
            PyBuffer_Release(&data)
        if crc != head.crc:
            raise DataLoss(f"Chunk.crc32c of {self._name} is {head.crc:#010x} in chunk {head.sequence}, and its "
                           f"content gives {crc:#010x}: it was damaged on its way")
        self.next_sequence += 1
        self.next_offset += size
        self._outstanding -= 1
        if head.is_last:
            self.is_complete = True
        if self._has_out:
            self._used += 1
            return None
        if unpacked is not None:
            return memoryview(unpacked)
        return PyMemoryView_FromObject(message)[head.content.p - <const uint8_t*>PyBytes_AS_STRING(message):][:size]

    cdef int _check(self, Head* head, uint64_t size) except -1:
        cdef uint64_t total = <uint64_t>self._total
        if head.item != self._item:
            raise InvalidArgument(f"Chunk.item is {head.item}; {self._name} is item {self._item}")
        if self.is_complete:
            raise DataLoss(f"Chunk.sequence {head.sequence} of {self._name} comes behind the last chunk, "
                           f"{self.next_sequence - 1}")
        if head.sequence < self.next_sequence:
            raise DataLoss(f"Chunk.sequence {head.sequence} of {self._name} comes again; {self.next_sequence} is next")
        if head.sequence > self.next_sequence:
            raise DataLoss(f"Chunk.sequence is {head.sequence} and {self.next_sequence} of {self._name} has not come")
        if head.offset != self.next_offset:
            raise DataLoss(f"Chunk.offset of {self._name} is {head.offset} in chunk {head.sequence}; "
                           f"{self.next_offset} is next")
        if size > self._max_chunk_bytes:
            raise InvalidArgument(f"Chunk.content of {self._name} has {size} bytes in chunk {head.sequence}; at most "
                                  f"{self._max_chunk_bytes} are allowed")
        if self._gives_credit and self._outstanding <= 0:
            raise InvalidArgument(f"Chunk.sequence {head.sequence} of {self._name} was sent without credit: the "
                                  f"writer is more than {self._window} chunks ahead")
        if self._total >= 0 and size > total - head.offset:
            raise InvalidArgument(f"Chunk.content of {self._name} has {size} bytes in chunk {head.sequence}; "
                                  f"{total - head.offset} of {total} are missing")
        if head.is_last and self._total >= 0 and head.offset + size != total:
            raise DataLoss(f"Chunk.is_last of {self._name} is set in chunk {head.sequence}, and {head.offset + size} "
                           f"of {total} bytes have come")
        if not head.is_last and size == 0:
            raise InvalidArgument(f"Chunk.content of {self._name} is empty in chunk {head.sequence}, which is not "
                                  f"the last")
        if not head.is_last and self._total >= 0 and head.offset + size == total:
            raise InvalidArgument(f"Chunk.is_last of {self._name} is not set in chunk {head.sequence}, which has the "
                                  f"last of {total} bytes")
        return 0

    cdef object _unpacked(self, bytes message, Head* head):
        if self._decompress is None:
            raise InvalidArgument(f"Chunk.raw_bytes of {self._name} is {head.raw_bytes} in chunk {head.sequence}, "
                                  f"and no compression was agreed on")
        start = head.content.p - <const uint8_t*>PyBytes_AS_STRING(message)
        made = self._decompress(memoryview(message)[start:start + head.content.n], head.raw_bytes)
        if <uint64_t>len(made) != head.raw_bytes:
            raise DataLoss(f"Chunk.content of {self._name} unpacks to {len(made)} bytes in chunk {head.sequence}; "
                           f"Chunk.raw_bytes is {head.raw_bytes}")
        return made

    def used(self, int64_t chunks=1):
        """Say that so many chunks that `feed` handed out are dealt with. With a destination they are at once."""
        self._used += chunks

    def take_credit(self, bint at_once=False):
        """Return how many chunks the writer may send more than it was told so far.

        It is given in portions of half a window, so that not every chunk has an answer; `at_once` gives what there is.
        """
        cdef int64_t chunks = self._used
        self._gives_credit = True
        if self.is_complete or (chunks * 2 < self._window and not at_once):
            return 0
        self._used = 0
        self._outstanding += chunks
        return chunks

    def restart(self):
        """Get ready for a new stream, whose writer goes on from here: it has no credit yet."""
        self._outstanding = 0
        self._used = self._window
