"""Which level of vector instructions the kernels use in this process."""

cdef enum:
    BASELINE = 0
    V3 = 1
    V4 = 2

# Chosen once, when this module is imported.
cdef int level
