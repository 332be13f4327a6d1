"""Where workers come from: each provider makes, finds and ends workers of one kind.

`runtime.providers.base` has the interface, `runtime.providers.local` the processes of this machine.
"""
