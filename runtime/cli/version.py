"""``tensor-runtime version``."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Take no arguments."""


def run(_options: argparse.Namespace) -> int:
    """Print the version, Python's and gRPC's."""
    import platform

    from runtime import __version__
    from runtime.process_tuning import grpc_version

    print(f"tensor-runtime {__version__} (Python {platform.python_version()}, grpcio {grpc_version()})")
    return 0
