from typing import Any

import numpy as np
import numpy.typing as npt

def fingerprint64(text: bytes) -> int: ...
def fingerprint_buckets(array: npt.NDArray[Any], num_buckets: int) -> npt.NDArray[np.int64]: ...
