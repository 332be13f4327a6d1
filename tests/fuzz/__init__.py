"""Fuzzing of everything that reads bytes from outside; ``python -m tests.fuzz`` runs it for longer."""
