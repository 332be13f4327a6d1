"""The fleet plane: machines report themselves, servers enrol with certificates, clients ask which server to use.

An inventory, not a scanner: a machine reports only itself, and the only host that is ever contacted is an enrolled
server that has shown that it owns the address it offers.
"""
