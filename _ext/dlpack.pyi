from typing import Any

import numpy as np
import numpy.typing as npt

def read(capsule: object, dtypes: dict[tuple[int, int], np.dtype[Any]]) -> npt.NDArray[Any]: ...
