from typing import Any

import numpy as np

DEFAULT_MAX_BYTES: int

def decode_tensor(buf: bytes, offset: int = 0, end: int = -1, max_bytes: int | None = None) -> np.ndarray[Any, Any]: ...
def decode_tensor_ex(
    buf: bytes, offset: int = 0, end: int = -1, max_bytes: int | None = None
) -> tuple[int, np.ndarray[Any, Any]]: ...
