"""What settings look like as text: one function for each kind of value.

Each takes a text, or a value from a file or a program, and returns the setting's value, or raises ValueError with a
sentence that says what is expected.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

ALL_SERVICES = ("graph", "task", "command", "fleet", "stream")
_SIZE_UNITS = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


def text(value: object) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError("expected a text that is not empty")
    return value


def any_text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("expected a text")
    return value


def listen(value: object) -> str:
    address = text(value)
    if address.startswith("unix:"):
        path = address.removeprefix("unix:").removeprefix("//")
        # sockaddr_un holds 108 bytes with the closing zero.
        if not path or len(os.fsencode(path)) > 107:
            raise ValueError("expected unix:PATH with a path of 1 to 107 bytes")
        return f"unix:{path}"
    host, separator, port = address.rpartition(":")
    bare_ipv6 = ":" in host and not (host.startswith("[") and host.endswith("]"))
    if not separator or bare_ipv6 or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ValueError("expected HOST:PORT with a port from 0 to 65535 ([HOST]:PORT for IPv6), or unix:PATH")
    return address


def cluster(value: object) -> str | None:
    if value is None or value == "":
        return None
    if not isinstance(value, (str, Mapping)):
        raise ValueError("expected the cluster's jobs as JSON, a file of JSON, or a table")
    from runtime.cluster_spec import ClusterSpec

    return ClusterSpec.parse(value).to_json()


def path(value: object) -> Path:
    if isinstance(value, Path):
        return value.expanduser()
    return Path(text(value)).expanduser()


def optional_path(value: object) -> Path | None:
    return None if value is None or value == "" else path(value)


def services(value: object) -> tuple[str, ...]:
    expected = f"expected a list of {', '.join(ALL_SERVICES)}, or all"
    if isinstance(value, str):
        names = [name.strip() for name in value.split(",") if name.strip()]
    elif isinstance(value, (list, tuple)) and all(isinstance(name, str) for name in value):
        names = list(value)
    else:
        raise ValueError(expected)
    if names == ["all"]:
        return ALL_SERVICES
    for name in names:
        if name not in ALL_SERVICES:
            raise ValueError(f"{expected}{suggestion(name, ALL_SERVICES)}")
    if not names:
        raise ValueError(expected)
    return tuple(name for name in ALL_SERVICES if name in names)


def flag(value: object) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str):
        word = value.strip().lower()
        if word in ("1", "true", "yes", "on"):
            return True
        if word in ("0", "false", "no", "off", ""):
            return False
    raise ValueError("expected true or false")


def integer(low: int, high: int) -> Callable[[object], int]:
    expected = f"expected a whole number from {low} to {high}"

    def parse(value: object) -> int:
        if isinstance(value, str):
            try:
                value = int(value.strip())
            except ValueError:
                raise ValueError(expected) from None
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise ValueError(expected)
        return value

    return parse


def directories(value: object) -> tuple[Path, ...] | str:
    if value in ("auto", "all"):
        return str(value)
    if value == "none":
        return ()
    if isinstance(value, str):
        value = value.split(os.pathsep)
    if not isinstance(value, (list, tuple)) or not all(isinstance(item, (str, Path)) and str(item) for item in value):
        raise ValueError(f"expected auto, all, none, or directories separated by {os.pathsep!r}")
    return tuple(Path(item).expanduser() for item in value)


def networks(value: object) -> tuple[str, ...]:
    if isinstance(value, str):
        value = tuple(text.strip() for text in value.split(",") if text.strip())
    if not isinstance(value, (list, tuple)) or not all(isinstance(text, str) for text in value):
        raise ValueError("expected networks such as 10.0.0.0/8 separated by commas, the word private, or auto")
    if tuple(value) != ("auto",):
        from runtime.fleet.addresses import parse_networks

        parse_networks(value)
    return tuple(value)


def names(value: object) -> tuple[str, ...]:
    if isinstance(value, str):
        value = tuple(text.strip() for text in value.split(",") if text.strip())
    if not isinstance(value, (list, tuple)) or not all(isinstance(text, str) and text for text in value):
        raise ValueError("expected names separated by commas, or none")
    return () if tuple(value) == ("none",) else tuple(value)


def endpoints(value: object) -> tuple[str, ...]:
    if isinstance(value, str):
        value = tuple(text.strip() for text in value.split(",") if text.strip())
    if not isinstance(value, (list, tuple)) or not all(isinstance(text, str) for text in value):
        raise ValueError("expected endpoints of workers, separated by commas: unix:PATH, HOST:PORT or grpcs://HOST:PORT")
    if not value:
        return ()
    from runtime.tasks.agents.endpoint import Endpoint

    return tuple(dict.fromkeys(str(Endpoint.parse(text)) for text in value))


def seconds(low: float, high: float) -> Callable[[object], float]:
    expected = f"expected seconds from {low:g} to {high:g}"

    def parse(value: object) -> float:
        try:
            seconds = float(value)  # type: ignore[arg-type]
        except (TypeError, ValueError):
            raise ValueError(expected) from None
        if isinstance(value, bool) or not low <= seconds <= high:
            raise ValueError(expected)
        return seconds

    return parse


def parse_size(value: object) -> int:
    """Return a number of bytes from an int or a text such as ``512MiB``, ``4g`` or ``1000000``.

    Raises
    ------
    ValueError
        If it is not a positive size.
    """
    expected = "expected a positive number of bytes, such as 1073741824, 512MiB or 4GiB"
    if isinstance(value, str):
        word = value.strip().lower()
        digits = word.rstrip("bikmgt ")
        unit = word[len(digits) :].strip().removesuffix("b").removesuffix("i")
        if unit not in _SIZE_UNITS:
            raise ValueError(expected)
        try:
            number = float(digits) if "." in digits else int(digits)
        except ValueError:
            raise ValueError(expected) from None
        value = int(number * _SIZE_UNITS[unit])
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 1 << 63:
        raise ValueError(expected)
    return value


def size_or_none(value: object) -> int:
    if value == 0 or (isinstance(value, str) and value.strip() == "0"):
        return 0
    try:
        return parse_size(value)
    except ValueError as error:
        raise ValueError(f"{error}, or 0 for no limit") from None


def choice(*allowed: str) -> Callable[[object], str]:
    def parse(value: object) -> str:
        if not isinstance(value, str) or value.lower() not in allowed:
            hint = suggestion(value, allowed) if isinstance(value, str) else ""
            raise ValueError(f"expected one of {', '.join(allowed)}{hint}")
        return value.lower()

    return parse


def suggestion(name: str, known: tuple[str, ...]) -> str:
    import difflib

    near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f"; did you mean {near[0]!r}?" if near else ""
