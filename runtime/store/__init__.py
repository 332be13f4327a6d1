"""Durable state: what every plane asks of a store, and the stores that there are.

`runtime.store.store` has the interface, `runtime.store.sqlite` the store in a file of the data directory.
"""
