"""Steps: compiling, running, functions, partial runs."""
