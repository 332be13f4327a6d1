from typing import Any

import numpy as np
import numpy.typing as npt

def crops(
    images: npt.NDArray[np.float32],
    which: npt.NDArray[np.int64],
    top: npt.NDArray[np.int64],
    bottom: npt.NDArray[np.int64],
    down: npt.NDArray[np.float32],
    rows_inside: npt.NDArray[np.bool_],
    left: npt.NDArray[np.int64],
    right: npt.NDArray[np.int64],
    across: npt.NDArray[np.float32],
    columns_inside: npt.NDArray[np.bool_],
    outside: float,
    smooth: bool,
) -> npt.NDArray[Any]: ...
