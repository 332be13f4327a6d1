"""The task plane: sessions of tasks with data dependencies, retries and priorities, on a durable store.

`runtime.tasks.tasks.Tasks` is what services and agents call.
"""
