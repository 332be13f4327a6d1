"""One call of a server, by path and message."""

from __future__ import annotations

from typing import Any

import grpc

from runtime.client.channels import Access, SharedChannel, address_of
from runtime.errors import from_rpc_error


def unary(target: str, access: Access, path: str, message: Any) -> bytes:
    """Return the bytes of the answer, or raise this project's error for the status."""
    shared = SharedChannel.acquire(address_of(target), access)
    try:
        call: Any = shared.channel.unary_unary(path)
        answer: bytes = call(message.SerializeToString(), timeout=10, metadata=access.metadata())
        return answer
    except grpc.RpcError as error:
        raise from_rpc_error(error) from None
    finally:
        shared.release()
