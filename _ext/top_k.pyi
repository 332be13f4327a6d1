from typing import Any

import numpy as np
import numpy.typing as npt

def largest(rows: npt.NDArray[Any], k: int) -> tuple[npt.NDArray[Any], npt.NDArray[np.int64]]: ...
