"""The store in one SQLite file: nothing to install, nothing to run.

`database` opens the file, `writer` commits groups of writes, `store` joins both behind the interface, and each plane
has one module of tables (`task_tables`). All SQL of the project is in this package.
"""
