from runtime.proto import _pool

_pool.export(__name__, globals())
