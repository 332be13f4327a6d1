"""gRPC channels to servers: one per target and credentials, shared by the sessions that use it."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import grpc

from runtime.client.access import Access, address_of

__all__ = ["Access", "SharedChannel", "address_of", "open_channel"]

_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_metadata_size", 64 * 1024),
    # A restarted server is found again within a second, as TensorFlow's clients do.
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.initial_reconnect_backoff_ms", 100),
    # A step must not run twice because a connection broke.
    ("grpc.enable_retries", 0),
)


def open_channel(address: str, access: Access) -> grpc.Channel:
    """Return a new channel to an address."""
    options: Sequence[tuple[str, Any]] = _OPTIONS
    if access.server_name is not None:
        options = (*_OPTIONS, ("grpc.ssl_target_name_override", access.server_name))
    if access.tls:
        return grpc.secure_channel(address, grpc.ssl_channel_credentials(access.ca, access.key, access.cert), options)
    return grpc.insecure_channel(address, options)


class SharedChannel:
    """A channel with a count of its users; the last one to leave closes it.

    Attributes
    ----------
    channel : grpc.Channel
    """

    _open: dict[tuple[str, Access], SharedChannel] = {}
    _lock = threading.Lock()

    def __init__(self, key: tuple[str, Access]) -> None:
        self._key = key
        self._users = 0
        self.channel = open_channel(*key)

    @classmethod
    def acquire(cls, address: str, access: Access) -> SharedChannel:
        """Return the channel for an address, made now if nobody uses one."""
        with cls._lock:
            key = (address, access)
            shared = cls._open.get(key)
            if shared is None:
                shared = cls._open[key] = cls(key)
            shared._users += 1
            return shared

    def release(self) -> None:
        """Let go of the channel."""
        with self._lock:
            self._users -= 1
            if self._users == 0:
                del self._open[self._key]
                self.channel.close()
