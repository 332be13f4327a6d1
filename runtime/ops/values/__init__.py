"""Values of variant tensors: what an element of such a tensor is."""
