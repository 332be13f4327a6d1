"""Bytes of any size: written once, named by their content, read in pieces, removed when nothing refers to them."""
