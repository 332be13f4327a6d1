"""The command plane: shell commands that workers take, run and report on (the TaskQueue protocol).

A *command* here is what the protocol calls a task. `runtime.commands.commands.Commands` is what services call.
"""
