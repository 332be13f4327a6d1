"""Wire definitions and their loader: message classes in a descriptor pool of our own."""
