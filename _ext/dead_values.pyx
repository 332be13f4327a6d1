"""Values of branches that were not taken, where somebody outside of the executors meets them."""

from runtime._ext.errors import Internal


class _DeadValue:
    """The type of `DEAD_VALUE`."""

    __slots__ = ()

    def __repr__(self):
        return "DEAD_VALUE"


DEAD_VALUE = _DeadValue()
"""What a kernel that gets values from other tasks completes with when such a value is dead."""


class DeadFetch(Internal):
    """A fetched value is dead: it comes from a branch that was not taken.

    Attributes
    ----------
    index : int
        Position among the fetches.
    """

    def __init__(self, index=0):
        super().__init__(f"the value of fetch {index} is dead: it comes from a branch that was not taken")
        self.index = index
