from typing import Any

import numpy as np
import numpy.typing as npt

def factor(matrices: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], npt.NDArray[np.int64]]: ...
