"""Messages of TensorFlow's master and worker services.

Every message and enum of the modules in this package, made on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from runtime.proto import _pool

if TYPE_CHECKING:
    from runtime.proto.tensorflow.attr_value_pb2 import *
    from runtime.proto.tensorflow.cluster_pb2 import *
    from runtime.proto.tensorflow.config_pb2 import *
    from runtime.proto.tensorflow.coordination_pb2 import *
    from runtime.proto.tensorflow.cost_graph_pb2 import *
    from runtime.proto.tensorflow.debug_pb2 import *
    from runtime.proto.tensorflow.device_attributes_pb2 import *
    from runtime.proto.tensorflow.error_codes_pb2 import *
    from runtime.proto.tensorflow.full_type_pb2 import *
    from runtime.proto.tensorflow.function_pb2 import *
    from runtime.proto.tensorflow.graph_pb2 import *
    from runtime.proto.tensorflow.master_pb2 import *
    from runtime.proto.tensorflow.node_def_pb2 import *
    from runtime.proto.tensorflow.op_def_pb2 import *
    from runtime.proto.tensorflow.rewriter_config_pb2 import *
    from runtime.proto.tensorflow.server_pb2 import *
    from runtime.proto.tensorflow.step_stats_pb2 import *
    from runtime.proto.tensorflow.tensor_pb2 import *
    from runtime.proto.tensorflow.tensor_shape_pb2 import *
    from runtime.proto.tensorflow.tensor_slice_pb2 import *
    from runtime.proto.tensorflow.types_pb2 import *
    from runtime.proto.tensorflow.worker_pb2 import *


if not TYPE_CHECKING:  # so that a type checker reports a name that does not exist

    def __getattr__(name: str) -> Any:
        value = _pool.lookup(__name__, name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_pool.names(__name__)})
