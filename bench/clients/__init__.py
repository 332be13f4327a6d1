"""Client programs of the benchmarks; those that need TensorFlow run in the peer's interpreter."""
