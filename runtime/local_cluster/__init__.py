"""Clusters of server processes on this machine, for ``runtime.Cluster`` and ``tensor-runtime cluster``."""
