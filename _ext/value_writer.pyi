from collections.abc import Sequence

from typing_extensions import Buffer

def write_values(file: int, values: list[tuple[int, Sequence[Buffer]]], are_synced: bool = False) -> list[int]: ...
