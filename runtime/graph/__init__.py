"""What a graph is: parse, build, prune, place, functions, gradients."""
