from typing import Any

import numpy as np
import numpy.typing as npt

def add_rows(
    out: npt.NDArray[Any],
    targets: npt.NDArray[np.int64],
    rows: npt.NDArray[Any],
    sources: npt.NDArray[np.int64],
    factors: npt.NDArray[Any] | None = None,
) -> None: ...
