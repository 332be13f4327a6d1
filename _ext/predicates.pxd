"""What a tensor means where control flow depends on it."""

# 1 when a tensor is true as a condition, else 0.
cdef int truth_of(object value) except -1

# Output that a Switch takes: a truth value for two, an index for more; out of range means the last.
cdef int choice_of(object predicate, int num_outputs) except -1
