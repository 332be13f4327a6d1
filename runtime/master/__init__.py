"""The master: sessions over a graph, their steps, partial runs and callables."""
