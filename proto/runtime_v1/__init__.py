"""Messages of this project's own services, package ``runtime.v1`` on the wire.

Every message and enum of the modules in this package, made on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from runtime.proto import _pool

if TYPE_CHECKING:
    from runtime.proto.runtime_v1.authority_pb2 import *
    from runtime.proto.runtime_v1.batches_pb2 import *
    from runtime.proto.runtime_v1.inspector_pb2 import *
    from runtime.proto.runtime_v1.metrics_pb2 import *
    from runtime.proto.runtime_v1.observer_pb2 import *
    from runtime.proto.runtime_v1.results_pb2 import *
    from runtime.proto.runtime_v1.status_pb2 import *
    from runtime.proto.runtime_v1.submissions_pb2 import *
    from runtime.proto.runtime_v1.transport_pb2 import *
    from runtime.proto.runtime_v1.uploads_pb2 import *
    from runtime.proto.runtime_v1.workers_pb2 import *


if not TYPE_CHECKING:  # so that a type checker reports a name that does not exist

    def __getattr__(name: str) -> Any:
        value = _pool.lookup(__name__, name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_pool.names(__name__)})
