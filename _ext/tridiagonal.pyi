from typing import Any

import numpy.typing as npt

def solve(bands: npt.NDArray[Any], rhs: npt.NDArray[Any], pivoting: bool) -> npt.NDArray[Any]: ...
