from typing import Any

import numpy as np
import numpy.typing as npt

def murmur_buckets(array: npt.NDArray[Any], num_buckets: int) -> npt.NDArray[np.int64]: ...
def siphash_buckets(array: npt.NDArray[Any], num_buckets: int, k0: int, k1: int) -> npt.NDArray[np.int64]: ...
