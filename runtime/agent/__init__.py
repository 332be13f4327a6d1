"""``tensor-runtime agent``: a worker that takes commands from a server and runs them on this machine.

Each command has a supervisor, a process of its own that outlives the agent: it reads the output, holds the limits, and
ends the whole tree of processes when it is told to, or when no agent has come back for it.
"""
