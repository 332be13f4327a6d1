"""What stateful ops keep between steps, apart from the kernels that reach it."""
