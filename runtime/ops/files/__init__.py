"""Formats of the files that graph ops read records from."""
