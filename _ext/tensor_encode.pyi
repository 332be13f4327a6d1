from typing import Any

import numpy as np

def encode_tensor(array: np.ndarray[Any, Any], datatype: int | None = None) -> bytes: ...
