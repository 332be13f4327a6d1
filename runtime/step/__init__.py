"""From a graph and a step's signature to a program, and running it."""
