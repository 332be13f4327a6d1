COSTS: dict[str, int]
MOST_LEFT: int

def left_calls() -> list[str]: ...
