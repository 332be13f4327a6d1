from typing import Any

import numpy as np
import numpy.typing as npt

from runtime._ext.philox import Philox

def gamma(generator: Philox, alpha: npt.NDArray[np.float64], samples: int) -> npt.NDArray[np.float64]: ...
def poisson(
    generator: Philox, rate: npt.NDArray[np.float64], samples: int, highest: float
) -> npt.NDArray[np.float64]: ...
def normal_between(
    generator: Philox,
    out: npt.NDArray[Any],
    batch: int,
    means: npt.NDArray[Any],
    deviations: npt.NDArray[Any],
    lows: npt.NDArray[Any],
    highs: npt.NDArray[Any],
) -> int: ...
def gamma_slope(alpha: npt.NDArray[np.float64], sample: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]: ...
