"""The error tree of the compiled code, one class per status code.

``runtime.errors`` re-exports all of it; nothing here knows gRPC. ``code`` is the numeric status code that
TensorFlow and gRPC share.
"""


class Error(Exception):
    """Base of every error that this package raises on purpose.

    Attributes
    ----------
    code : int
        Status code, 1 to 16.
    message : str
        What was wrong, the value, and what would be right.
    """

    code = 2

    def __init__(self, message=""):
        super().__init__(message)
        self.message = message

    def __str__(self):
        return self.message


class Cancelled(Error):
    code = 1


class Unknown(Error):
    code = 2


class InvalidArgument(Error, ValueError):
    code = 3


class DeadlineExceeded(Error, TimeoutError):
    code = 4


class NotFound(Error, LookupError):
    code = 5


class AlreadyExists(Error):
    code = 6


class PermissionDenied(Error, PermissionError):
    code = 7


class ResourceExhausted(Error, MemoryError):
    code = 8


class FailedPrecondition(Error):
    code = 9


class Aborted(Error):
    code = 10


class OutOfRange(Error, IndexError):
    code = 11


class Unimplemented(Error, NotImplementedError):
    code = 12


class Internal(Error, RuntimeError):
    code = 13


class Unavailable(Error, ConnectionError):
    code = 14


class DataLoss(Error):
    code = 15


class Unauthenticated(Error, PermissionError):
    code = 16


CODES = {
    cls.code: cls
    for cls in (Cancelled, Unknown, InvalidArgument, DeadlineExceeded, NotFound, AlreadyExists, PermissionDenied,
                ResourceExhausted, FailedPrecondition, Aborted, OutOfRange, Unimplemented, Internal, Unavailable,
                DataLoss, Unauthenticated)
}
