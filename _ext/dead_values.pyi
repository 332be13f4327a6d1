from runtime._ext.errors import Internal

DEAD_VALUE: object

class DeadFetch(Internal):
    index: int
    def __init__(self, index: int = 0) -> None: ...
