"""The task plane from a program: sessions, tasks, results; `runtime.TaskClient` and `runtime.AsyncTaskClient`."""
