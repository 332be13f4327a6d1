from runtime._ext.http2 import Connection

def look(
    connection: Connection, now: float, greet_s: float, looks: int, stream_looks: int
) -> str | None: ...
