"""Agents: each feeds the ready tasks of a server to one worker, over the worker's own service."""
