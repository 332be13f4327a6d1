"""Compiled code only: the tensor codec, the step executor and the kernels."""
