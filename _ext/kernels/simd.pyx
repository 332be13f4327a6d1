"""Which level of vector instructions the kernels use in this process.

The best that the processor has, unless the environment variable ``TENSOR_RUNTIME_SIMD`` names one: ``baseline``, ``v3``
(AVX2) or ``v4`` (AVX-512), as the x86-64 levels are called. Elsewhere there is the baseline alone. All levels give the
same results for arithmetic; they are there for speed.
"""

import os

cdef extern from "kernels/simd.h":
    int trt_level_works(int level)

cdef tuple _NAMES = ("baseline", "v3", "v4")
VARIABLE = "TENSOR_RUNTIME_SIMD"


def levels():
    """Return the names of the levels that run on this machine, the slowest first.

    Returns
    -------
    tuple of str
    """
    return tuple([_NAMES[i] for i in range(len(_NAMES)) if trt_level_works(i)])


def level_name():
    """Return the name of the level in use.

    Returns
    -------
    str
    """
    return _NAMES[level]


cdef int _choose() except -1:
    cdef str wanted = os.environ.get(VARIABLE, "")
    there = levels()
    if not wanted:
        wanted = there[len(there) - 1]
    if wanted not in there:
        raise ValueError(f"{VARIABLE} is {wanted!r}: this machine has {', '.join(there)}; unset it to use the best")
    return _NAMES.index(wanted)


level = _choose()
