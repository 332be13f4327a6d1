"""Steps run with numpy's floating-point warnings off."""

# Switch them off; return what `restore_warnings` needs.
cdef object silence_warnings()

cdef int restore_warnings(object former) except -1
