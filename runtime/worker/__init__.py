"""The graph plane's worker: parts of graphs that a master registers here and runs step by step."""
