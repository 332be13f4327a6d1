import numpy as np
import numpy.typing as npt

def edit_distances(
    a: npt.NDArray[np.int64],
    a_lengths: npt.NDArray[np.int64],
    b: npt.NDArray[np.int64],
    b_lengths: npt.NDArray[np.int64],
) -> npt.NDArray[np.int64]: ...
