"""Checkpoints on disk, in TensorFlow's format: a sorted table of entries beside files of raw tensor data."""
