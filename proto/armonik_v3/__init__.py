"""Messages of ArmoniK's submitter service as its clients of the 3.14 line have it.

Every message and enum of the modules in this package, made on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from runtime.proto import _pool

if TYPE_CHECKING:
    from runtime.proto.armonik_v3.objects_pb2 import *
    from runtime.proto.armonik_v3.result_status_pb2 import *
    from runtime.proto.armonik_v3.session_status_pb2 import *
    from runtime.proto.armonik_v3.submitter_pb2 import *
    from runtime.proto.armonik_v3.task_status_pb2 import *


if not TYPE_CHECKING:  # so that a type checker reports a name that does not exist

    def __getattr__(name: str) -> Any:
        value = _pool.lookup(__name__, name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_pool.names(__name__)})
