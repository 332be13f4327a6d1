"""The store in one SQLite file: nothing to install, nothing to run.

`database` opens the file, `writer` commits groups of writes, `store` joins both behind the interface, and each plane
has its tables (`task_tables` and what that builds on). All SQL of the project is in this package.
"""
